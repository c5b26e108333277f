#include "train/validation.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <map>

#include "core/error.h"
#include "core/random.h"
#include "train/collectives.h"
#include "train/micro_batch.h"

namespace ldmtune::train {
namespace {

std::vector<std::int64_t> fixed_timesteps(std::int64_t count, std::int64_t num_train_timesteps) {
  if (count < 4 || count % 4 != 0 || count > num_train_timesteps) {
    fail_input("option validation.timesteps: expected a multiple of 4 from 4 to ", num_train_timesteps, ", found ",
               count);
  }
  std::vector<std::int64_t> timesteps;
  for (std::int64_t j = 0; j < count; ++j) timesteps.push_back((2 * j + 1) * num_train_timesteps / (2 * count));
  return timesteps;
}

std::uint64_t image_key(const store::SampleRecord& record) {
  std::uint64_t key = 0;
  for (int byte = 7; byte >= 0; --byte) key = key << 8 | record.image_sha256[static_cast<std::size_t>(byte)];
  return key;
}

/// The first `rows` of per-sample values (B), behind `values`.
void append_rows(const at::Tensor& per_sample, std::int64_t rows, std::vector<double>& values) {
  const at::Tensor on_cpu = per_sample.to(at::kCPU, at::kDouble);
  values.insert(values.end(), on_cpu.data_ptr<double>(), on_cpu.data_ptr<double>() + rows);
}

/// Means over the rows of each image, of each quartile, and over the images. Rows stand image by image.
ValidationLoss summarize(const std::vector<double>& rows, std::size_t images, std::size_t timesteps) {
  ValidationLoss loss;
  for (std::size_t i = 0; i < images; ++i) {
    double sum = 0;
    for (std::size_t j = 0; j < timesteps; ++j) {
      sum += rows[i * timesteps + j];
      loss.by_quartile[j * 4 / timesteps] += rows[i * timesteps + j] * 4 / static_cast<double>(timesteps * images);
    }
    loss.by_image.push_back(sum / static_cast<double>(timesteps));
    loss.mean += loss.by_image.back() / static_cast<double>(images);
  }
  return loss;
}

}  // namespace

std::vector<std::size_t> validation_samples(const data::DatasetMix& dataset, store::Split split, std::int64_t limit) {
  std::vector<std::size_t> samples;
  for (const auto& bucket : dataset.by_bucket(split)) {
    for (const std::size_t sample : bucket) {
      if (dataset.record(sample).variant == 0) samples.push_back(sample);
    }
  }
  std::stable_sort(samples.begin(), samples.end(), [&](std::size_t a, std::size_t b) {
    return dataset.record(a).image_sha256 < dataset.record(b).image_sha256;
  });
  if (limit > 0 && samples.size() > static_cast<std::size_t>(limit)) samples.resize(static_cast<std::size_t>(limit));
  return samples;
}

Validator::Validator(const model::BaseModel& base, const diffusion::NoiseSchedule& schedule,
                     pipeline::PromptEncoder& prompts, const TrainConfig& config, comm::Communicator& comm,
                     at::Device device)
    : base_(base),
      schedule_(schedule),
      prompts_(prompts),
      templates_(config),
      seed_(config.validation.seed),
      batch_size_(config.validation.batch_size),
      comm_(comm),
      device_(device),
      timesteps_(fixed_timesteps(config.validation.timesteps, schedule.num_train_timesteps())) {
  if (batch_size_ < 1) fail_input("option validation.batch_size: expected 1 or more, found ", batch_size_);
}

struct Validator::Inputs {
  at::Tensor noisy, target;  ///< f32 (B, C, h, w), CPU
  at::Tensor timestep;       ///< i64 (B), CPU
  std::vector<std::string> captions;
  std::vector<model::ImageSizes> sizes;
};

ValidationLoss Validator::evaluate(const ValidationSet& set, const HooksFactory& hooks, const Options& options) const {
  const at::NoGradGuard no_grad;
  const Batches batches = batches_of(set);
  std::vector<double> losses, drifts;
  std::size_t mine = 0;
  for (auto b = static_cast<std::size_t>(comm_.rank()); b < batches.size();
       b += static_cast<std::size_t>(comm_.size())) {
    const auto rows = static_cast<std::int64_t>(batches[b].size());
    const Inputs inputs = inputs_of(set, batches[b]);
    const at::Tensor whole = predict(inputs, hooks, options.in_text_encoder);
    append_rows(diffusion::per_sample_mse(whole.to(at::kFloat), inputs.target.to(device_)), rows, losses);
    const at::Tensor prediction = whole.slice(0, 0, rows);
    if (options.base) {
      const at::Tensor untouched = options.base->at(mine++).to(device_, at::kFloat);
      append_rows(diffusion::per_sample_mse(prediction.to(at::kFloat), untouched), rows, drifts);
    }
    if (options.keep) options.keep->push_back(prediction.to(at::kCPU, /*non_blocking=*/false, /*copy=*/true));
  }
  ValidationLoss loss = summarize(in_order(set, batches, losses), set.samples.size(), timesteps_.size());
  if (!options.base) return loss;
  const ValidationLoss drift = summarize(in_order(set, batches, drifts), set.samples.size(), timesteps_.size());
  loss.drift = drift.mean;
  loss.drift_by_image = drift.by_image;
  return loss;
}

Validator::Batches Validator::batches_of(const ValidationSet& set) const {
  // Batches never mix buckets; within a bucket rows stand image by image.
  std::map<store::BucketSize, std::vector<Row>> by_bucket;
  for (const std::size_t sample : set.samples) {
    for (std::size_t j = 0; j < timesteps_.size(); ++j) by_bucket[set.dataset->bucket(sample)].push_back({sample, j});
  }
  Batches batches;
  for (const auto& [bucket, rows] : by_bucket) {
    for (std::size_t begin = 0; begin < rows.size(); begin += static_cast<std::size_t>(batch_size_)) {
      const std::size_t end = std::min(rows.size(), begin + static_cast<std::size_t>(batch_size_));
      batches.emplace_back(rows.begin() + static_cast<std::ptrdiff_t>(begin),
                           rows.begin() + static_cast<std::ptrdiff_t>(end));
    }
  }
  return batches;
}

std::vector<double> Validator::in_order(const ValidationSet& set, const Batches& batches,
                                        const std::vector<double>& mine) const {
  std::vector<std::vector<double>> by_rank;
  for (const std::string& bytes : comm_.all_gather(to_bytes(mine))) by_rank.push_back(from_bytes(bytes));
  std::map<std::size_t, std::vector<double>> by_sample;
  std::vector<std::size_t> taken(by_rank.size());
  for (std::size_t b = 0; b < batches.size(); ++b) {
    const std::size_t rank = b % by_rank.size();
    for (const Row& row : batches[b]) by_sample[row.sample].push_back(by_rank[rank][taken[rank]++]);
  }
  std::vector<double> rows;
  for (const std::size_t sample : set.samples)
    rows.insert(rows.end(), by_sample[sample].begin(), by_sample[sample].end());
  return rows;
}

Validator::Inputs Validator::inputs_of(const ValidationSet& set, const std::vector<Row>& rows) const {
  Inputs inputs;
  std::vector<at::Tensor> latents, noise;
  std::vector<std::int64_t> timesteps;
  for (std::size_t i = 0; i < static_cast<std::size_t>(batch_size_); ++i) {
    const Row& row = rows[std::min(i, rows.size() - 1)];
    const store::SampleRecord& record = set.dataset->record(row.sample);
    latents.push_back(set.dataset->latent(row.sample).mean * set.dataset->scaling_factor(row.sample));
    const RandomStream stream{seed_, Purpose::validation_noise, static_cast<std::uint32_t>(row.timestep_index),
                              image_key(record)};
    noise.push_back(normal_tensor(stream, latents.back().sizes()));
    timesteps.push_back(timesteps_[row.timestep_index]);
    inputs.sizes.push_back(image_sizes(*set.dataset, row.sample));
    const std::string& caption = set.dataset->caption(row.sample);
    const auto& templates = templates_.of(set.uses_templates ? set.dataset->dataset_of(row.sample) : 0);
    const std::string text = set.uses_templates ? templates.plain(caption) : caption;
    inputs.captions.push_back(set.trigger.empty() ? text : set.trigger + " " + text);
  }
  const at::Tensor clean = at::stack(latents), noise_BCHW = at::stack(noise);
  inputs.timestep = at::tensor(timesteps, at::kLong);
  inputs.noisy = schedule_.add_noise(clean, noise_BCHW, inputs.timestep);
  inputs.target = schedule_.target(clean, noise_BCHW, inputs.timestep);
  return inputs;
}

at::Tensor Validator::predict(const Inputs& inputs, const HooksFactory& hooks, bool in_text_encoder) const {
  const at::ScalarType dtype = base_.unet->parameters().begin()->second.scalar_type();
  const auto forward_hooks = hooks ? hooks() : nullptr;
  const model::TextConditioning text =
      in_text_encoder ? prompts_.condition_ids(prompts_.input_ids(inputs.captions), forward_hooks.get(),
                                               prompts_.token_weights(inputs.captions))
                      : prompts_.condition(inputs.captions);
  model::AddedConditioning added;
  if (text.pooled.defined()) added = {text.pooled.to(device_, dtype), model::time_ids(inputs.sizes).to(device_)};
  return base_.unet->forward(inputs.noisy.to(device_, dtype), inputs.timestep.to(device_),
                             text.context.to(device_, dtype), forward_hooks.get(), added);
}

}  // namespace ldmtune::train
