#include "pipeline/encode.h"

#include <algorithm>
#include <chrono>
#include <optional>

#include "core/error.h"
#include "core/log.h"
#include "core/progress.h"
#include "pipeline/batch_encoder.h"
#include "pipeline/collective.h"
#include "pipeline/dataset_writer.h"
#include "pipeline/device.h"
#include "pipeline/prepare_checks.h"
#include "pipeline/scan.h"
#include "pipeline/split.h"
#include "pipeline/stop_signals.h"

namespace ldmtune::pipeline {
namespace {

/// Consecutive images of one part, by position in the list of images: what one forward takes.
struct BatchRange {
  std::size_t begin = 0, end = 0;
};

/// Batches of each part in turn: a pure function of the numbers, so that no rank count changes them.
std::vector<BatchRange> plan_batches(std::size_t images, std::size_t images_per_part, std::size_t batch_size) {
  std::vector<BatchRange> batches;
  for (std::size_t part = 0; part < images; part += images_per_part) {
    const std::size_t part_end = std::min(images, part + images_per_part);
    for (std::size_t begin = part; begin < part_end; begin += batch_size) {
      batches.push_back({begin, std::min(part_end, begin + batch_size)});
    }
  }
  return batches;
}

std::vector<store::SampleRecord> make_records(const EncodedBatch& batch, std::span<const ScannedImage> images,
                                              std::span<const store::Split> splits, std::int64_t variants) {
  std::vector<store::SampleRecord> records;
  const auto geometry = batch.geometry.accessor<std::int32_t, 2>();
  for (std::size_t i = 0; i < images.size(); ++i) {
    const auto row = geometry[static_cast<std::int64_t>(i)];
    store::SampleRecord record;
    record.image_sha256 = images[i].sha256;
    record.original_size = {row[0], row[1]};
    record.crop = {row[2], row[3], row[4], row[5]};
    record.split = splits[i];
    for (std::int64_t variant = 0; variant < variants; ++variant) {
      record.sample_id = 2 * images[i].index + static_cast<std::uint64_t>(variant);
      record.variant = static_cast<std::uint8_t>(variant);
      records.push_back(record);
    }
  }
  return records;
}

std::vector<store::Split> splits_of(const std::vector<ScannedImage>& images, const PrepareConfig& config) {
  std::vector<SplitCandidate> candidates;
  candidates.reserve(images.size());
  for (const ScannedImage& image : images) {
    candidates.push_back({image.entry.source, image.sha256, image.entry.split, image.entry.group});
  }
  return assign_splits(candidates, {config.validation_images, config.test_images});
}

std::vector<data::Caption> captions_of(const std::vector<ScannedImage>& images, std::int64_t variants) {
  std::vector<data::Caption> captions;
  for (const ScannedImage& image : images) {
    for (std::int64_t variant = 0; variant < variants; ++variant) {
      captions.push_back({2 * image.index + static_cast<std::uint64_t>(variant), image.entry.source, image.entry.text,
                          image.entry.repeats});
    }
  }
  return captions;
}

/// Everything that is known before the first image is encoded.
struct Plan {
  const PrepareConfig& config;
  PrepareBase base;
  std::vector<ScannedImage> images;
  std::vector<store::Split> splits;
  store::BucketSize bucket;
};

void write_index(const std::filesystem::path& folder, const Plan& plan, std::vector<data::DatasetIndex::Part> parts,
                 std::int64_t variants) {
  data::DatasetIndex index;
  index.parts = std::move(parts);
  index.base_sha256 = plan.base.base_sha256;
  index.vae_sha256 = plan.base.vae_sha256;
  index.scaling_factor = plan.base.vae->scaling_factor();
  index.latent_channels = plan.base.vae->latent_channels();
  index.buckets = {plan.bucket};
  index.captions_sha256 = data::write_captions(folder, captions_of(plan.images, variants));
  nlohmann::json origin{{"images", plan.config.images.string()},
                        {"resolution", plan.base.resolution},
                        {"random_flip", plan.config.random_flip}};
  if (plan.config.mask != "none") origin["mask"] = plan.config.mask;
  write_index_with_origin(folder, index, origin);
}

/// Ranks take batches in turn; after each round rank 0 has all of them in order and writes parts as they fill. A
/// round's rows are written inside the next round's work, so that a full disk ends all ranks alike.
void encode_and_write(const Plan& plan, comm::Communicator& comm) {
  const bool root = comm.rank() == 0;
  const auto ranks = static_cast<std::size_t>(comm.size());
  const PrepareConfig& config = plan.config;
  const BatchEncoder encoder(*plan.base.vae, plan.base.resolution, config.batch_size, config.random_flip,
                             parse_mask_source(config.mask));
  const auto batches = plan_batches(plan.images.size(), static_cast<std::size_t>(config.images_per_part),
                                    static_cast<std::size_t>(config.batch_size));
  const StopSignals stop;
  std::optional<PartialFolder> folder;
  std::optional<PartWriter> writer;
  run_together(comm, [&] {
    if (!root) return;
    folder.emplace(config.output);
    writer.emplace(folder->path(), plan.bucket,
                   static_cast<std::uint64_t>(config.images_per_part * encoder.variants()));
  });
  const auto images_of = [&](const BatchRange& range) {
    return std::span(plan.images).subspan(range.begin, range.end - range.begin);
  };

  std::vector<std::string> round;  // the last round's batches; rank 0 writes them
  std::size_t written = 0;         // batches
  const auto write_round = [&] {
    for (const std::string& bytes : round) {
      if (written == batches.size()) break;
      const BatchRange range = batches[written++];
      const EncodedBatch batch = encoder.from_bytes(bytes, static_cast<std::int64_t>(range.end - range.begin));
      const auto splits = std::span(plan.splits).subspan(range.begin, range.end - range.begin);
      writer->append(make_records(batch, images_of(range), splits, encoder.variants()), batch.latent_mean,
                     batch.latent_std, batch.mask);
      writer->flush(range.end == plan.images.size());
    }
  };

  ProgressBar progress("encode", static_cast<std::int64_t>(plan.images.size()), "images", root);
  for (std::size_t first = 0; first < batches.size(); first += ranks) {
    round = gather_together(comm, [&] {
      stop.check();
      if (root) write_round();
      const std::size_t mine = first + static_cast<std::size_t>(comm.rank());
      return mine < batches.size() ? encoder.encode(images_of(batches[mine])).to_bytes() : std::string();
    });
    progress.update(static_cast<std::int64_t>(batches[std::min(first + ranks, batches.size()) - 1].end));
  }
  progress.finish();
  run_together(comm, [&] {
    if (!root) return;
    write_round();
    write_index(folder->path(), plan, writer->parts(), encoder.variants());
    folder->commit();
  });
}

}  // namespace

PrepareResult prepare_dataset(const PrepareConfig& config, comm::Communicator& comm) {
  const auto start = std::chrono::steady_clock::now();
  try {
    const std::vector<data::ImageEntry> entries = checked_entries(config, comm);
    Plan plan{config, load_prepare_base(config, comm), {}, {}, {}};
    ScanResult scan = scan_images(entries, images_taken(entries, config), comm);
    const auto skipped = static_cast<std::uint64_t>(scan.bad.size());
    run_together(comm, [&] {
      report_bad_images(scan, config, comm.rank() == 0);
      plan.splits = splits_of(scan.images, config);
    });
    plan.images = std::move(scan.images);
    const auto side = static_cast<std::int32_t>(plan.base.resolution);
    plan.bucket = {side, side};
    encode_and_write(plan, comm);

    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    const std::uint64_t images = plan.images.size();
    return {images, images * (config.random_flip ? 2 : 1), skipped, seconds};
  } catch (const Error&) {
    // All ranks are here for the same reason. Rank 0 has removed what it wrote; only now may one of them end the job.
    comm.barrier();
    throw;
  }
}

}  // namespace ldmtune::pipeline
