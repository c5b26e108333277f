#include "data/latent_dataset.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "core/error.h"
#include "data/staging.h"
#include "store/files.h"

namespace ldmtune::data {
namespace {

// Where a sample lies.
struct Location {
  std::uint32_t part = 0, bucket = 0;  // indices into index.parts and index.buckets
  std::int64_t row = 0;
};

void check_sha256(const std::filesystem::path& file, const std::string& expected, const char* remedy) {
  const std::string found = store::sha256_file(file);
  if (found == expected) return;
  fail_input(file.string(), ": expected sha256 ", expected, " (index.json), found ", found, "; ", remedy);
}

}  // namespace

struct LatentDataset::Impl {
  std::filesystem::path origin;  // as the caller named it
  std::filesystem::path folder;  // where files are read: origin, or its copy on the node's disk
  DatasetIndex index;
  std::string sha256;
  std::vector<store::LatentPart> parts;
  std::vector<std::vector<std::int64_t>> latent_shapes;  // of each bucket, (2, C, h, w); empty until a part holds it
  std::vector<Location> samples;                         // in order of sample_id
  std::vector<Caption> captions;                         // of each sample

  std::filesystem::path part_file(std::size_t part) const { return folder / index.parts[part].file; }
  const store::SampleRecord& record(const Location& at) const {
    return parts[at.part].records(index.buckets[at.bucket])[static_cast<std::size_t>(at.row)];
  }
  void verify_checksums(std::uint64_t verify_below) const;
  void open_part(std::uint32_t part);
  void check_latent_shape(std::uint32_t part, std::uint32_t bucket);
  void sort_samples();
  void assign_captions();
};

void LatentDataset::Impl::verify_checksums(std::uint64_t verify_below) const {
  std::uint64_t bytes = 0;
  for (std::size_t part = 0; part < index.parts.size(); ++part) {
    std::error_code error;
    if (!std::filesystem::is_regular_file(part_file(part), error)) {
      fail_input(part_file(part).string(),
                 ": expected the part that index.json lists, found no such file; copy the dataset again");
    }
    bytes += std::filesystem::file_size(part_file(part));
  }
  check_sha256(folder / "captions.jsonl", index.captions_sha256,
               "captions are changed in the image folder, then `ldmtune prepare --captions_only`");
  if (bytes >= verify_below) return;
  for (std::size_t part = 0; part < index.parts.size(); ++part) {
    check_sha256(part_file(part), index.parts[part].sha256, "the part is damaged: copy or prepare the dataset again");
  }
}

void LatentDataset::Impl::open_part(std::uint32_t part) {
  const std::string file = part_file(part).string();
  parts.emplace_back(part_file(part));
  std::uint64_t found = 0;
  for (const store::BucketSize& size : parts.back().buckets()) {
    const auto bucket = std::find(index.buckets.begin(), index.buckets.end(), size);
    if (bucket == index.buckets.end()) {
      fail_input(file, ": holds bucket ", size.name(), ", which index.json does not list; prepare the dataset again");
    }
    const auto position = static_cast<std::uint32_t>(bucket - index.buckets.begin());
    const auto rows = static_cast<std::int64_t>(parts.back().records(size).size());
    for (std::int64_t row = 0; row < rows; ++row) samples.push_back({part, position, row});
    found += static_cast<std::uint64_t>(rows);
    if (rows > 0) check_latent_shape(part, position);
  }
  if (found != index.parts[part].samples) {
    fail_input(file, ": expected ", index.parts[part].samples, " samples (index.json), found ", found,
               "; copy or prepare the dataset again");
  }
}

void LatentDataset::Impl::check_latent_shape(std::uint32_t part, std::uint32_t bucket) {
  const std::vector<std::int64_t> shape = parts[part].read_latent(index.buckets[bucket], 0).sizes().vec();
  std::vector<std::int64_t>& known = latent_shapes[bucket];
  if (known.empty()) known = shape;
  if (shape.size() == 4 && shape[1] == index.latent_channels && shape == known) return;
  fail_input(part_file(part).string(), ": bucket ", index.buckets[bucket].name(), ": expected latents (2, ",
             index.latent_channels, ", h, w) as in index.json and the parts before, found ", at::IntArrayRef(shape),
             "; prepare the dataset again");
}

void LatentDataset::Impl::sort_samples() {
  for (std::size_t bucket = 0; bucket < index.buckets.size(); ++bucket) {
    if (latent_shapes[bucket].empty()) {
      fail_input((origin / "index.json").string(), ": lists bucket ", index.buckets[bucket].name(),
                 ", of which no part holds a sample; prepare the dataset again");
    }
  }
  const auto id = [this](const Location& at) { return record(at).sample_id; };
  std::sort(samples.begin(), samples.end(), [&](const Location& a, const Location& b) { return id(a) < id(b); });
  const auto twice = std::adjacent_find(samples.begin(), samples.end(),
                                        [&](const Location& a, const Location& b) { return id(a) == id(b); });
  if (twice != samples.end()) {
    fail_input(part_file(twice[1].part).string(), ": sample_id ", id(*twice), " is in ", index.parts[twice->part].file,
               " too; expected each once: prepare the dataset again");
  }
}

void LatentDataset::Impl::assign_captions() {
  const std::string file = (folder / "captions.jsonl").string();
  std::unordered_map<std::uint64_t, Caption> by_id;
  for (Caption& caption : read_captions(folder)) by_id.emplace(caption.sample_id, std::move(caption));
  captions.reserve(samples.size());
  for (const Location& at : samples) {
    const auto caption = by_id.find(record(at).sample_id);
    if (caption == by_id.end()) {
      fail_input(file, ": expected a caption for sample_id ", record(at).sample_id, " of ", index.parts[at.part].file,
                 ", found none; run `ldmtune prepare --captions_only`");
    }
    captions.push_back(std::move(caption->second));
    by_id.erase(caption);
  }
  if (!by_id.empty()) {
    fail_input(file, ": has a caption for sample_id ", by_id.begin()->first,
               ", which no part holds; run `ldmtune prepare --captions_only`");
  }
}

LatentDataset::LatentDataset(const std::filesystem::path& folder, std::uint64_t verify_below)
    : impl_(std::make_unique<Impl>()) {
  impl_->origin = folder;
  impl_->index = read_dataset_index(folder);
  impl_->sha256 = store::sha256_file(folder / "index.json");
  impl_->folder = staged_dataset(folder, impl_->index, impl_->sha256);
  impl_->verify_checksums(verify_below);
  impl_->latent_shapes.resize(impl_->index.buckets.size());
  for (std::uint32_t part = 0; part < impl_->index.parts.size(); ++part) impl_->open_part(part);
  impl_->sort_samples();
  impl_->assign_captions();
}

LatentDataset::~LatentDataset() = default;

const std::filesystem::path& LatentDataset::folder() const { return impl_->origin; }
const DatasetIndex& LatentDataset::index() const { return impl_->index; }
const std::string& LatentDataset::sha256() const { return impl_->sha256; }
std::size_t LatentDataset::size() const { return impl_->samples.size(); }

const store::SampleRecord& LatentDataset::record(std::size_t sample) const {
  return impl_->record(impl_->samples.at(sample));
}

const store::BucketSize& LatentDataset::bucket(std::size_t sample) const {
  return impl_->index.buckets[impl_->samples.at(sample).bucket];
}

const std::string& LatentDataset::caption(std::size_t sample) const { return impl_->captions.at(sample).text; }
std::uint64_t LatentDataset::repeats(std::size_t sample) const { return impl_->captions.at(sample).repeats; }
const std::string& LatentDataset::source(std::size_t sample) const { return impl_->captions.at(sample).source; }

SampleLatent LatentDataset::latent(std::size_t sample) const {
  const Location& at = impl_->samples.at(sample);
  const at::Tensor both = impl_->parts[at.part].read_latent(impl_->index.buckets[at.bucket], at.row).to(at::kFloat);
  return {both.select(0, 0), both.select(0, 1)};
}

bool LatentDataset::has_masks() const {
  return std::any_of(impl_->parts.begin(), impl_->parts.end(), [](const store::LatentPart& part) {
    const auto sizes = part.buckets();
    return std::any_of(sizes.begin(), sizes.end(), [&](const auto& size) { return part.has_mask(size); });
  });
}

at::Tensor LatentDataset::mask(std::size_t sample) const {
  const Location& at = impl_->samples.at(sample);
  const store::BucketSize& size = impl_->index.buckets[at.bucket];
  const at::Tensor stored = impl_->parts[at.part].read_mask(size, at.row);
  if (stored.defined()) return stored;
  const std::vector<std::int64_t> shape = impl_->parts[at.part].latent_shape(size);
  return at::full({shape[1], shape[2]}, 255, at::kByte);
}

std::vector<std::vector<std::size_t>> LatentDataset::by_bucket(store::Split split) const {
  std::vector<std::vector<std::size_t>> buckets(impl_->index.buckets.size());
  for (std::size_t sample = 0; sample < size(); ++sample) {
    if (record(sample).split == split) buckets[impl_->samples[sample].bucket].push_back(sample);
  }
  return buckets;
}

}  // namespace ldmtune::data
