#include "train/micro_batch.h"

#include <utility>

#include "core/error.h"
#include "core/random.h"

namespace ldmtune::train {
namespace {

constexpr std::uint32_t kDataset = 0;  // the concept; class images and further datasets will be 1, 2 ...

std::int64_t draw_timestep(std::uint64_t seed, std::uint64_t draw, std::int64_t num_train_timesteps) {
  return static_cast<std::int64_t>(RandomStream{seed, Purpose::timestep, kDataset, draw}.integer(
      0, static_cast<std::uint64_t>(num_train_timesteps)));
}

}  // namespace

at::Tensor normal_tensor(const RandomStream& stream, at::IntArrayRef shape) {
  at::Tensor values = at::empty(shape, at::kFloat);
  stream.fill_normal({values.data_ptr<float>(), static_cast<std::size_t>(values.numel())});
  return values;
}

model::ImageSizes image_sizes(const data::LatentDataset& dataset, std::size_t sample) {
  const store::SampleRecord& record = dataset.record(sample);
  const store::BucketSize& bucket = dataset.bucket(sample);
  return {.original = {record.original_size[1], record.original_size[0]},
          .crop = {record.crop[1], record.crop[0]},
          .target = {bucket.height, bucket.width}};
}

LatentSampling parse_latent_sampling(const std::string& text) {
  if (text == "once") return LatentSampling::once;
  if (text == "deterministic") return LatentSampling::deterministic;
  if (text == "random") return LatentSampling::random;
  fail_input("option data.latent_sampling: expected once, deterministic or random, found '", text, "'");
}

BatchSource::BatchSource(const data::LatentDataset& dataset, std::vector<std::vector<std::size_t>> samples_by_bucket,
                         const diffusion::NoiseSchedule& schedule, pipeline::PromptEncoder& prompts,
                         const TrainConfig& config, at::Device device)
    : dataset_(dataset),
      samples_by_bucket_(std::move(samples_by_bucket)),
      schedule_(schedule),
      prompts_(prompts),
      tags_(config.caption),
      templates_(config.caption.template_text, config.caption.name),
      caption_dropout_(config.caption.dropout),
      data_seed_(config.data_options.seed),
      sampling_(parse_latent_sampling(config.data_options.latent_sampling)),
      device_(device) {
  if (!(caption_dropout_ >= 0 && caption_dropout_ <= 1)) {
    fail_input("option caption.dropout: expected a probability from 0 to 1, found ", caption_dropout_);
  }
}

std::vector<std::uint32_t> BatchSource::bucket_sizes() const {
  std::vector<std::uint32_t> sizes;
  for (const auto& samples : samples_by_bucket_) sizes.push_back(static_cast<std::uint32_t>(samples.size()));
  return sizes;
}

std::uint64_t BatchSource::samples() const {
  std::uint64_t total = 0;
  for (const auto& samples : samples_by_bucket_) total += samples.size();
  return total;
}

at::Tensor BatchSource::clean_latent(std::size_t sample, std::uint64_t draw, std::uint64_t trial_seed) const {
  const data::SampleLatent latent = dataset_.latent(sample);
  at::Tensor value = latent.mean;
  if (sampling_ != LatentSampling::deterministic) {
    // "once" keys the posterior's noise by the image, so that every epoch and every trial meets the same latent.
    const RandomStream stream =
        sampling_ == LatentSampling::once
            ? RandomStream{data_seed_, Purpose::posterior, kDataset, dataset_.record(sample).sample_id}
            : RandomStream{trial_seed, Purpose::posterior, kDataset, draw};
    value = value + latent.std * normal_tensor(stream, value.sizes());
  }
  return value * dataset_.index().scaling_factor;
}

MicroBatch BatchSource::make(const std::vector<data::Draw>& draws, std::uint64_t trial_seed) const {
  MicroBatch batch;
  std::vector<at::Tensor> latents, noise;
  std::vector<std::int64_t> ids, timesteps;
  std::vector<std::string> captions;
  std::vector<model::ImageSizes> sizes;
  for (const data::Draw& draw : draws) {
    const std::size_t sample = samples_by_bucket_.at(draw.bucket).at(draw.row);
    batch.draws.push_back(draw.draw);
    sizes.push_back(image_sizes(dataset_, sample));
    ids.push_back(static_cast<std::int64_t>(dataset_.record(sample).sample_id));
    latents.push_back(clean_latent(sample, draw.draw, trial_seed));
    noise.push_back(normal_tensor({trial_seed, Purpose::noise, kDataset, draw.draw}, latents.back().sizes()));
    timesteps.push_back(draw_timestep(trial_seed, draw.draw, schedule_.num_train_timesteps()));
    const std::string caption = tags_.apply(dataset_.caption(sample), trial_seed, kDataset, draw.draw);
    captions.push_back(templates_.apply(caption, trial_seed, kDataset, draw.draw, caption_dropout_));
  }
  const auto rows = static_cast<std::int64_t>(draws.size());
  batch.sample_id = at::tensor(ids, at::kLong);
  batch.dataset = at::full({rows}, static_cast<std::int64_t>(kDataset), at::kInt);
  batch.latents = at::stack(latents);
  batch.noise = at::stack(noise);
  batch.timestep = at::tensor(timesteps, at::kLong);
  // On the CPU before they move, so that a GPU run meets the same inputs.
  batch.noisy = schedule_.add_noise(batch.latents, batch.noise, batch.timestep).to(device_);
  batch.target = schedule_.target(batch.latents, batch.noise, batch.timestep).to(device_);
  batch.latents = batch.latents.to(device_);
  batch.noise = batch.noise.to(device_);
  batch.timestep = batch.timestep.to(device_);
  batch.input_ids = prompts_.input_ids(captions);
  batch.token_weights = prompts_.token_weights(captions);
  const model::TextConditioning text = prompts_.condition(captions);
  batch.context = text.context.to(device_, at::kFloat);
  if (text.pooled.defined()) {
    batch.added = {text.pooled.to(device_, at::kFloat), model::time_ids(sizes).to(device_)};
  }
  batch.weight = at::ones({rows}, at::TensorOptions(at::kFloat).device(device_));
  return batch;
}

}  // namespace ldmtune::train
