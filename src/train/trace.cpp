#include "train/trace.h"

#include <cstdio>

namespace ldmtune::train {
namespace {

std::string numbered(const char* format, std::int64_t number) {
  char text[40];
  std::snprintf(text, sizeof text, format, static_cast<long long>(number));
  return text;
}

/// A flat buffer of moments of which this rank holds [begin, end), gathered whole.
at::Tensor gather_moment(comm::Communicator& comm, const Trial& trial, const at::Tensor& slice) {
  at::Tensor flat = at::zeros_like(trial.arena->parameters());
  flat.slice(0, trial.optimizer->begin(), trial.optimizer->end()).copy_(slice);
  return gather_slices(comm, flat);
}

}  // namespace

Trace::Trace(const std::filesystem::path& file, const Trial& trial, std::int64_t first_step, comm::Communicator& comm)
    : comm_(comm) {
  if (comm.rank() == 0) writer_ = std::make_unique<store::Hdf5Writer>(file);
  write_arena("/step_000000/parameter/", trial, trial.arena->parameters());
  if (writer_) writer_->attribute("/step_000000", "step", first_step);
  if (first_step > 0) {
    for (const auto& [name, slice] : trial.optimizer->state()) {
      write_arena("/step_000000/" + name + "/", trial, gather_moment(comm_, trial, slice));
    }
  }
}

void Trace::write_arena(const std::string& group, const Trial& trial, const at::Tensor& flat) {
  if (!writer_) return;
  for (const auto& [name, view] : trial.arena->views_of(flat)) writer_->write(group + name, view);
}

void Trace::on_leaf(const LeafView& leaf) {
  const std::string prefix = numbered("micro_%04lld/", leaf.leaf);
  const MicroBatch& batch = leaf.batch;
  NamedTensors tensors{{"sample_id", batch.sample_id}, {"dataset", batch.dataset}, {"latent", batch.latents},
                       {"noise", batch.noise},         {"noisy", batch.noisy},     {"timestep", batch.timestep},
                       {"input_ids", batch.input_ids}, {"context", batch.context}, {"prediction", leaf.prediction},
                       {"target", batch.target},       {"weight", batch.weight},   {"loss", leaf.loss}};
  if (batch.added.pooled.defined()) {
    tensors.emplace_back("pooled", batch.added.pooled);
    tensors.emplace_back("time_ids", batch.added.time_ids);
  }
  for (const auto& [name, tensor] : tensors) leaves_.emplace_back(prefix + name, tensor);
  for (const auto& [name, tensor] : {std::pair{"mask", batch.terms.mask}, {"huber_c", batch.terms.huber_c}}) {
    if (tensor.defined()) leaves_.emplace_back(prefix + name, tensor);
  }
}

void Trace::on_gradient(std::size_t, const std::function<at::Tensor()>& gradient) { gradient_ = gradient(); }

void Trace::on_step_end(std::int64_t step, const Trial& trial, const TrialStep& result) {
  const std::string group = numbered("/step_%06lld/", step);
  for (const std::string& bytes : comm_.all_gather(pack_tensors(leaves_))) {
    if (!writer_) continue;
    for (const auto& [name, tensor] : unpack_tensors(bytes)) writer_->write(group + name, tensor);
  }
  leaves_.clear();
  write_arena(group + "gradient/", trial, gradient_);
  write_arena(group + "parameter/", trial, trial.arena->parameters());
  if (!writer_) return;
  const std::string path = group.substr(0, group.size() - 1);
  writer_->attribute(path, "loss", result.loss);
  writer_->attribute(path, "grad_norm", result.grad_norm);
  writer_->attribute(path, "clip_coefficient", result.clip_coefficient);
  std::vector<double> rates;
  for (const auto& [name, rate] : result.learning_rates) rates.push_back(rate);
  writer_->attribute(path, "learning_rate", rates);
  for (const auto& [name, value] : trial.optimizer->scalars()) writer_->attribute(path, "optimizer_" + name, value);
  writer_->flush();
}

void Trace::close() {
  if (writer_) writer_->close();
}

}  // namespace ldmtune::train
