#include "train/micro_batch.h"

#include <utility>

#include "core/error.h"
#include "core/random.h"

namespace ldmtune::train {
namespace {

/// What instances are called and where their subject lies says nothing about class images.
TrainConfig for_class_images(TrainConfig config) {
  config.caption.template_text.clear();
  config.dreambooth.instance_prompt.clear();
  config.loss.masked = false;
  return config;
}

}  // namespace

at::Tensor normal_tensor(const RandomStream& stream, at::IntArrayRef shape) {
  at::Tensor values = at::empty(shape, at::kFloat);
  stream.fill_normal({values.data_ptr<float>(), static_cast<std::size_t>(values.numel())});
  return values;
}

model::ImageSizes image_sizes(const data::DatasetMix& dataset, std::size_t sample) {
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

BatchSource::BatchSource(const data::DatasetMix& dataset, data::TrainingRows rows,
                         const diffusion::NoiseSchedule& schedule, pipeline::PromptEncoder& prompts,
                         const TrainConfig& config, at::Device device)
    : dataset_(dataset),
      rows_(std::move(rows)),
      schedule_(schedule),
      prompts_(prompts),
      tags_(config.caption),
      templates_(config),
      caption_dropout_(config.caption.dropout),
      data_seed_(config.data_options.seed),
      sampling_(parse_latent_sampling(config.data_options.latent_sampling)),
      loss_(config.loss),
      noise_offset_(config.noise.offset),
      timesteps_(config.noise, schedule, config.train.global_batch_size),
      device_(device) {
  if (loss_.masked && !dataset.has_masks()) {
    fail_input("option loss.masked: ", dataset.name(),
               " holds no masks; run ldmtune prepare with --mask alpha or --mask files");
  }
  if (!(caption_dropout_ >= 0 && caption_dropout_ <= 1)) {
    fail_input("option caption.dropout: expected a probability from 0 to 1, found ", caption_dropout_);
  }
}

BatchSource BatchSource::of_class_images(const data::DatasetMix& dataset, const diffusion::NoiseSchedule& schedule,
                                         pipeline::PromptEncoder& prompts, const TrainConfig& config,
                                         at::Device device) {
  BatchSource source(dataset, dataset.training_rows(), schedule, prompts, for_class_images(config), device);
  source.key_ = kClassDataset;
  source.first_dataset_ = static_cast<std::uint32_t>(config.data.size());
  source.weight_ = config.dreambooth.prior_loss_weight;
  return source;
}

at::Tensor BatchSource::clean_latent(std::size_t sample, std::uint64_t draw, std::uint64_t trial_seed) const {
  const data::SampleLatent latent = dataset_.latent(sample);
  at::Tensor value = latent.mean;
  if (sampling_ != LatentSampling::deterministic) {
    // "once" keys the posterior's noise by the image, so that every epoch and every trial meets the same latent.
    const RandomStream stream =
        sampling_ == LatentSampling::once
            ? RandomStream{data_seed_, Purpose::posterior, first_dataset_ + dataset_.dataset_of(sample),
                           dataset_.record(sample).sample_id}
            : RandomStream{trial_seed, Purpose::posterior, key_, draw};
    value = value + latent.std * normal_tensor(stream, value.sizes());
  }
  return value * dataset_.scaling_factor(sample);
}

at::Tensor BatchSource::training_noise(std::uint64_t draw, std::uint64_t trial_seed, at::IntArrayRef shape) const {
  at::Tensor noise = normal_tensor({trial_seed, Purpose::noise, key_, draw}, shape);
  if (noise_offset_ > 0) {
    noise += noise_offset_ * normal_tensor({trial_seed, Purpose::noise_offset, key_, draw}, {shape[0], 1, 1});
  }
  return noise;
}

void BatchSource::weigh(MicroBatch& batch, const std::vector<std::size_t>& samples) const {
  batch.terms.type = diffusion::parse_loss_type(loss_.loss_type);
  batch.terms.normalize_masked_area = loss_.normalize_masked_area;
  if (batch.terms.type != diffusion::LossType::l2) {
    const auto kind = diffusion::parse_huber_schedule(loss_.huber_schedule);
    batch.terms.huber_c = diffusion::huber_threshold(schedule_, batch.timestep, kind, loss_.huber_c).to(device_);
  }
  if (loss_.masked) {
    std::vector<at::Tensor> masks;
    for (const std::size_t sample : samples) masks.push_back(dataset_.mask(sample));
    batch.terms.mask = diffusion::mask_weight(at::stack(masks), loss_.unmasked_weight).to(device_);
  }
  batch.weight = loss_.snr_gamma > 0 ? diffusion::min_snr_weight(schedule_, batch.timestep, loss_.snr_gamma)
                                     : at::ones({static_cast<std::int64_t>(samples.size())}, at::kFloat);
  batch.weight = (batch.weight * weight_).to(device_);
}

MicroBatch BatchSource::make(const std::vector<data::Draw>& draws, std::uint64_t trial_seed) const {
  MicroBatch batch;
  std::vector<at::Tensor> latents, noise;
  std::vector<std::int64_t> ids, datasets;
  std::vector<std::size_t> samples;
  std::vector<std::string> captions;
  std::vector<model::ImageSizes> sizes;
  for (const data::Draw& draw : draws) {
    const std::size_t sample = rows_.samples.at(draw.bucket).at(draw.row);
    batch.draws.push_back(draw.draw);
    sizes.push_back(image_sizes(dataset_, sample));
    ids.push_back(static_cast<std::int64_t>(dataset_.record(sample).sample_id));
    datasets.push_back(first_dataset_ + dataset_.dataset_of(sample));
    latents.push_back(clean_latent(sample, draw.draw, trial_seed));
    noise.push_back(training_noise(draw.draw, trial_seed, latents.back().sizes()));
    samples.push_back(sample);
    const std::string caption = tags_.apply(dataset_.caption(sample), trial_seed, key_, draw.draw);
    const data::CaptionTemplates& templates = templates_.of(dataset_.dataset_of(sample));
    captions.push_back(templates.apply(caption, trial_seed, key_, draw.draw, caption_dropout_));
  }
  batch.sample_id = at::tensor(ids, at::kLong);
  batch.dataset = at::tensor(datasets, at::kInt);
  batch.latents = at::stack(latents);
  batch.noise = at::stack(noise);
  batch.timestep = at::tensor(timesteps_.sample(trial_seed, key_, batch.draws), at::kLong);
  weigh(batch, samples);
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
  return batch;
}

}  // namespace ldmtune::train
