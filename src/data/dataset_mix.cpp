#include "data/dataset_mix.h"

#include <algorithm>
#include <array>
#include <map>
#include <set>

#include "core/error.h"
#include "core/random.h"
#include "store/files.h"

namespace ldmtune::data {
namespace {

using Image = std::array<std::uint8_t, 32>;  // variants of an image share its sha256

constexpr std::uint64_t kKeysOfADataset = 1'000'000'000'000;

const char* name_of(store::Split split) {
  constexpr std::array<const char*, 3> kNames{"train", "validation", "test"};
  return kNames[static_cast<std::size_t>(split)];
}

std::string sha256_of_all(const std::vector<std::string>& hashes) {
  if (hashes.size() == 1) return hashes.front();
  std::string list;
  for (const std::string& hash : hashes) list += hash + "\n";
  return store::sha256_text(list);
}

std::vector<Weight> weights_of(const std::vector<double>& values, const DatasetMix& mix) {
  const std::size_t datasets = mix.datasets().size();
  if (values.empty()) return std::vector<Weight>(datasets);
  if (values.size() != datasets) {
    fail_input("option data.weights: expected a weight for each of the ", datasets, " dataset(s) in data (", mix.name(),
               "), found ", values.size());
  }
  std::vector<Weight> weights;
  for (const double value : values) weights.push_back(Weight::of(value));
  return weights;
}

}  // namespace

std::uint64_t TrainingRows::count() const {
  std::uint64_t total = 0;
  for (const auto& bucket : samples) total += bucket.size();
  return total;
}

double TrainingRows::per_pass() const {
  double total = 0;
  for (const auto& shares : stream.rows) {
    for (std::size_t dataset = 0; dataset < shares.size(); ++dataset) {
      total += shares[dataset] * stream.weights[dataset].value();
    }
  }
  return total;
}

DatasetMix::DatasetMix(const PathList& folders, std::uint64_t verify_below) {
  for (const std::filesystem::path& folder : folders) {
    if (std::count(folders.begin(), folders.end(), folder) > 1) {
      fail_input(folder.string(), ": expected each dataset once, found it twice in ", folders.string(),
                 "; data.weights says how often its samples are taken");
    }
    add(std::make_unique<LatentDataset>(folder, verify_below));
  }
  if (datasets_.empty()) fail_input("option data: expected a dataset folder, found none");
  if (datasets_.size() == 1) return;
  check_agreement();
  check_splits();
  check_sample_ids();
}

DatasetMix::DatasetMix(std::unique_ptr<LatentDataset> only) { add(std::move(only)); }

void DatasetMix::add(std::unique_ptr<LatentDataset> dataset) {
  const auto place = static_cast<std::uint32_t>(datasets_.size());
  for (std::size_t sample = 0; sample < dataset->size(); ++sample) places_.push_back({place, sample});
  for (const store::BucketSize& size : dataset->index().buckets) {
    if (bucket_place(size) == buckets_.size()) buckets_.push_back(size);
  }
  datasets_.push_back(std::move(dataset));
}

std::size_t DatasetMix::bucket_place(const store::BucketSize& size) const {
  return static_cast<std::size_t>(std::find(buckets_.begin(), buckets_.end(), size) - buckets_.begin());
}

void DatasetMix::check_agreement() const {
  const LatentDataset& first = *datasets_.front();
  std::map<store::BucketSize, std::pair<std::vector<std::int64_t>, std::string>> shapes;  // and whose they are
  for (const auto& other : datasets_) {
    const std::string folder = other->folder().string();
    if (other->index().vae_sha256 != first.index().vae_sha256) {
      fail_input(folder, ": encoded with another VAE (", other->index().vae_sha256.substr(0, 12), ") than ",
                 first.folder().string(), " (", first.index().vae_sha256.substr(0, 12),
                 "); datasets train together only if one base prepared them");
    }
    std::set<store::BucketSize> seen;
    for (std::size_t sample = 0; sample < other->size(); ++sample) {
      if (!seen.insert(other->bucket(sample)).second) continue;
      const std::vector<std::int64_t> shape = other->latent(sample).mean.sizes().vec();
      const auto& known = shapes.try_emplace(other->bucket(sample), shape, folder).first->second;
      if (known.first == shape) continue;
      fail_input(folder, ": bucket ", other->bucket(sample).name(), ": expected latents ", at::IntArrayRef(known.first),
                 " as in ", known.second, ", found ", at::IntArrayRef(shape), "; prepare both with one base");
    }
  }
}

void DatasetMix::check_splits() const {
  std::map<Image, std::size_t> first_of;
  for (std::size_t sample = 0; sample < size(); ++sample) {
    const std::size_t other = first_of.try_emplace(record(sample).image_sha256, sample).first->second;
    if (record(other).split == record(sample).split || dataset_of(other) == dataset_of(sample)) continue;
    fail_input(dataset(places_[sample]).folder().string(), ": ", source(sample), " is in its ",
               name_of(record(sample).split), " split, and the same image (", source(other), ") in the ",
               name_of(record(other).split), " split of ", dataset(places_[other]).folder().string(),
               ": what is held out would be trained on. Prepare one of them anew with \"split\" in its metadata.jsonl, "
               "or with --validation_images 0 --test_images 0 and without the image");
  }
}

void DatasetMix::check_sample_ids() const {
  for (const Place& place : places_) {
    if (dataset(place).record(place.sample).sample_id < kKeysOfADataset) continue;
    fail_input(dataset(place).folder().string(),
               ": expected sample_ids below 10^12 where several datasets train "
               "together, found ",
               dataset(place).record(place.sample).sample_id);
  }
}

std::string DatasetMix::name() const {
  std::string text;
  for (const auto& each : datasets_) text += (text.empty() ? "" : ", ") + each->folder().string();
  return text;
}

std::string DatasetMix::sha256() const {
  std::vector<std::string> hashes;
  for (const auto& each : datasets_) hashes.push_back(each->sha256());
  return sha256_of_all(hashes);
}

std::string datasets_sha256(const PathList& folders) {
  std::vector<std::string> hashes;
  for (const std::filesystem::path& folder : folders) {
    std::error_code ignored;
    if (!std::filesystem::exists(folder / "index.json", ignored)) return {};
    hashes.push_back(store::sha256_file(folder / "index.json"));
  }
  return sha256_of_all(hashes);
}

const store::SampleRecord& DatasetMix::record(std::size_t sample) const {
  return dataset(places_.at(sample)).record(places_[sample].sample);
}
std::uint64_t DatasetMix::sample_key(std::size_t sample) const {
  return dataset_of(sample) * kKeysOfADataset + record(sample).sample_id;
}
const store::BucketSize& DatasetMix::bucket(std::size_t sample) const {
  return dataset(places_.at(sample)).bucket(places_[sample].sample);
}
const std::string& DatasetMix::caption(std::size_t sample) const {
  return dataset(places_.at(sample)).caption(places_[sample].sample);
}
const std::string& DatasetMix::source(std::size_t sample) const {
  return dataset(places_.at(sample)).source(places_[sample].sample);
}
SampleLatent DatasetMix::latent(std::size_t sample) const {
  return dataset(places_.at(sample)).latent(places_[sample].sample);
}
double DatasetMix::scaling_factor(std::size_t sample) const {
  return dataset(places_.at(sample)).index().scaling_factor;
}
at::Tensor DatasetMix::mask(std::size_t sample) const {
  return dataset(places_.at(sample)).mask(places_[sample].sample);
}

bool DatasetMix::has_masks() const {
  return std::any_of(datasets_.begin(), datasets_.end(), [](const auto& each) { return each->has_masks(); });
}

std::vector<std::vector<std::size_t>> DatasetMix::by_bucket(store::Split split) const {
  std::vector<std::vector<std::size_t>> buckets(buckets_.size());
  for (std::size_t sample = 0; sample < size(); ++sample) {
    if (record(sample).split == split) buckets[bucket_place(bucket(sample))].push_back(sample);
  }
  return buckets;
}

TrainingRows DatasetMix::training_rows(std::uint64_t n, std::uint64_t subset_seed,
                                       const std::vector<double>& weights) const {
  TrainingRows rows;
  rows.stream.weights = weights_of(weights, *this);
  const auto trains = [&](std::size_t sample) {
    return record(sample).split == store::Split::train && rows.stream.weights[dataset_of(sample)].numerator > 0;
  };
  std::vector<Image> images;  // in order of their first sample
  std::set<Image> chosen;
  for (std::size_t sample = 0; sample < size(); ++sample) {
    if (trains(sample) && chosen.insert(record(sample).image_sha256).second) {
      images.push_back(record(sample).image_sha256);
    }
  }
  if (n > images.size()) {
    fail_input("data.subset: expected at most the ", images.size(), " training images of ", name(),
               " (0 takes all), found ", n);
  }
  if (n > 0) {
    const auto order = permutation({subset_seed, Purpose::subset, 0, 0}, static_cast<std::uint32_t>(images.size()));
    chosen.clear();
    for (std::uint64_t i = 0; i < n; ++i) chosen.insert(images[order[i]]);
  }
  rows.samples.resize(buckets_.size());
  rows.stream.rows.assign(buckets_.size(), std::vector<std::uint32_t>(datasets_.size()));
  for (std::size_t sample = 0; sample < size(); ++sample) {
    if (!trains(sample) || chosen.count(record(sample).image_sha256) == 0) continue;
    const std::size_t bucket_of_sample = bucket_place(bucket(sample));
    const std::uint64_t repeats = dataset(places_[sample]).repeats(places_[sample].sample);
    rows.samples[bucket_of_sample].insert(rows.samples[bucket_of_sample].end(), repeats, sample);
    rows.stream.rows[bucket_of_sample][dataset_of(sample)] += static_cast<std::uint32_t>(repeats);
  }
  return rows;
}

}  // namespace ldmtune::data
