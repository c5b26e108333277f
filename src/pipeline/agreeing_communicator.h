#pragma once
// Work that holds collectives and may fail on one rank between them.

#include <exception>
#include <functional>
#include <string>
#include <vector>

#include "comm/communicator.h"

namespace ldmtune::pipeline {

/// Hands everything to another communicator. Inside work_together each collective begins with the question whether a
/// rank has failed by now: no rank waits in a collective that another will not reach.
class AgreeingCommunicator final : public comm::Communicator {
 public:
  /// `inner` must outlive it.
  explicit AgreeingCommunicator(comm::Communicator& inner) : inner_(&inner) {}
  /// Another communicator of the same ranks from now on.
  void use(comm::Communicator& inner) { inner_ = &inner; }

  /// Runs `work`, whose collectives must all go through this object, on all ranks. If it throws on any of them, all
  /// throw the error of the lowest such rank (pipeline::results_of): the failing rank at once, the others at their next
  /// collective or at the end. Within itself it just runs `work`.
  void work_together(const std::function<void()>& work);

  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  int local_rank() const override { return inner_->local_rank(); }
  int local_size() const override { return inner_->local_size(); }
  bool accepts_device_buffers() const override { return inner_->accepts_device_buffers(); }
  void barrier() override;
  void reduce_scatter(std::span<float> data, const comm::AddInto& add) override;
  void all_gather(std::span<float> data) override;
  std::vector<double> all_gather(std::span<const double> values) override;
  std::vector<std::string> all_gather(const std::string& bytes) override;
  void broadcast(std::span<std::byte> data, int root) override;
  std::string broadcast(const std::string& bytes, int root) override;
  bool any(bool value) override;
  [[noreturn]] void abort(int exit_code) override;

 private:
  comm::Communicator& after_agreeing();
  /// Throws on all ranks, here and from then on, if `outcome` (pipeline::outcome_of) is an error on any.
  void agree(const std::string& outcome);

  comm::Communicator* inner_;
  bool is_working_ = false;
  std::exception_ptr failure_;  ///< of this work, known to all ranks
};

}  // namespace ldmtune::pipeline
