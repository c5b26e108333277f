#include "pipeline/agreeing_communicator.h"

#include <cstdlib>

#include "core/error.h"
#include "pipeline/collective.h"

namespace ldmtune::pipeline {

void AgreeingCommunicator::work_together(const std::function<void()>& work) {
  if (is_working_) return work();
  is_working_ = true;
  failure_ = nullptr;
  const std::string outcome = outcome_of([&work] {
    work();
    return std::string();
  });
  is_working_ = false;
  if (failure_) std::rethrow_exception(failure_);  // all ranks know it, whatever `work` made of it
  agree(outcome);
}

void AgreeingCommunicator::agree(const std::string& outcome) {
  const bool failed = outcome.at(0) != 0;
  if (!inner_->any(failed)) return;
  try {
    results_of(inner_->all_gather(outcome));
  } catch (const Error&) {
    failure_ = std::current_exception();
    throw;
  }
}

comm::Communicator& AgreeingCommunicator::after_agreeing() {
  if (is_working_) {
    if (failure_) std::rethrow_exception(failure_);
    agree(std::string(1, '\0'));
  }
  return *inner_;
}

void AgreeingCommunicator::barrier() { after_agreeing().barrier(); }

void AgreeingCommunicator::reduce_scatter(std::span<float> data, const comm::AddInto& add) {
  after_agreeing().reduce_scatter(data, add);
}

void AgreeingCommunicator::all_gather(std::span<float> data) { after_agreeing().all_gather(data); }

std::vector<double> AgreeingCommunicator::all_gather(std::span<const double> values) {
  return after_agreeing().all_gather(values);
}

std::vector<std::string> AgreeingCommunicator::all_gather(const std::string& bytes) {
  return after_agreeing().all_gather(bytes);
}

void AgreeingCommunicator::broadcast(std::span<std::byte> data, int root) { after_agreeing().broadcast(data, root); }

std::string AgreeingCommunicator::broadcast(const std::string& bytes, int root) {
  return after_agreeing().broadcast(bytes, root);
}

bool AgreeingCommunicator::any(bool value) { return after_agreeing().any(value); }

void AgreeingCommunicator::abort(int exit_code) {
  inner_->abort(exit_code);
  std::abort();  // never reached; GCC does not see that through a virtual call
}

}  // namespace ldmtune::pipeline
