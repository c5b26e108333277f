#pragma once
// Micro-batches: draws of the sample stream turned into the tensors of a forward pass.

#include <ATen/ATen.h>

#include <cstdint>
#include <string>
#include <vector>

#include "core/config.h"
#include "core/random.h"
#include "data/caption_tags.h"
#include "data/dataset_mix.h"
#include "data/sample_stream.h"
#include "diffusion/loss.h"
#include "diffusion/noise_schedule.h"
#include "diffusion/timestep_sampler.h"
#include "pipeline/text.h"
#include "train/concept_templates.h"

namespace ldmtune::train {

/// b rows, all of one bucket, on the training device.
struct MicroBatch {
  std::vector<std::uint64_t> draws;  ///< b identities
  at::Tensor sample_id;              ///< i64 (b), CPU
  at::Tensor dataset;                ///< i32 (b), CPU: its place in data, or behind those for class images
  at::Tensor latents;                ///< f32 (b, C, h, w), clean and scaled
  at::Tensor noise;                  ///< f32 (b, C, h, w)
  at::Tensor noisy;                  ///< f32 (b, C, h, w)
  at::Tensor timestep;               ///< i64 (b)
  at::Tensor input_ids;              ///< i64 (b, L), CPU
  at::Tensor token_weights;          ///< f32 (b, L), CPU; undefined where all tokens count alike
  at::Tensor context;                ///< f32 (b, T, D)
  model::AddedConditioning added;    ///< SDXL: pooled (b, P) and time_ids (b, 6), f32
  at::Tensor target;                 ///< f32 (b, C, h, w)
  at::Tensor weight;                 ///< f32 (b): what a sample's loss counts (min-SNR ...)
  diffusion::LossTerms terms;        ///< what kind of loss: mask f32 (b, 1, h, w), huber_c f32 (b) where used
};

/// The "dataset" of class images in random keys; the concept's is 0, however many datasets it comes from.
constexpr std::uint32_t kClassDataset = 1;

enum class LatentSampling { once, deterministic, random };
/// Errors: InputError listing the names.
LatentSampling parse_latent_sampling(const std::string& text);

/// Everything a micro-batch is made from; shared by trials that train on the same data.
class BatchSource {
 public:
  BatchSource(const data::DatasetMix& dataset, data::TrainingRows rows, const diffusion::NoiseSchedule& schedule,
              pipeline::PromptEncoder& prompts, const TrainConfig& config, at::Device device);

  /// Class images of prior preservation: their samples weigh prior_loss_weight, their captions train as they stand.
  static BatchSource of_class_images(const data::DatasetMix& dataset, const diffusion::NoiseSchedule& schedule,
                                     pipeline::PromptEncoder& prompts, const TrainConfig& config, at::Device device);

  /// What the sample stream draws from.
  const data::StreamRows& stream_rows() const { return rows_.stream; }
  std::uint64_t samples() const { return rows_.count(); }
  /// Samples of one pass over the data, by the datasets' weights.
  double samples_per_pass() const { return rows_.per_pass(); }

  /// The micro-batch of these draws for the trial with this seed.
  MicroBatch make(const std::vector<data::Draw>& draws, std::uint64_t trial_seed) const;

 private:
  at::Tensor clean_latent(std::size_t sample, std::uint64_t draw, std::uint64_t trial_seed) const;
  at::Tensor training_noise(std::uint64_t draw, std::uint64_t trial_seed, at::IntArrayRef shape) const;
  /// The batch's terms and weight, which follow from its timesteps and its samples' masks.
  void weigh(MicroBatch& batch, const std::vector<std::size_t>& samples) const;

  const data::DatasetMix& dataset_;
  data::TrainingRows rows_;
  const diffusion::NoiseSchedule& schedule_;
  pipeline::PromptEncoder& prompts_;
  data::CaptionTags tags_;
  ConceptTemplates templates_;
  double caption_dropout_;
  std::uint64_t data_seed_;
  LatentSampling sampling_;
  LossConfig loss_;
  double noise_offset_;
  diffusion::TimestepSampler timesteps_;
  at::Device device_;
  std::uint32_t key_ = 0;            ///< of random numbers: 0, class images kClassDataset
  std::uint32_t first_dataset_ = 0;  ///< how many datasets come before, in traces
  double weight_ = 1.0;              ///< of every sample
};

/// What SDXL is told of a sample: original size, crop, and the bucket as target.
model::ImageSizes image_sizes(const data::DatasetMix& dataset, std::size_t sample);

/// Standard normals of one stream in a tensor of this shape (f32, CPU).
at::Tensor normal_tensor(const RandomStream& stream, at::IntArrayRef shape);

}  // namespace ldmtune::train
