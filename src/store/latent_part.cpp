#include "store/latent_part.h"

#include <charconv>
#include <cstring>
#include <optional>
#include <set>

#include "core/error.h"
#include "store/file_io.h"
#include "store/files.h"
#include "store/hdf5.h"

namespace ldmtune::store {
namespace {

constexpr char kFormat[] = "ldmtune-latents";
constexpr std::int64_t kVersion = 1;
constexpr std::size_t kMostBuckets = 4096;

template <class T>
constexpr at::ScalarType dtype_of() {
  return c10::CppTypeToScalarType<T>::value;
}

/// (N) or (N, width) tensor of one field of the records, `field` giving a pointer to its `width` values.
template <class T, class Field>
at::Tensor pack_field(const std::vector<SampleRecord>& records, std::int64_t width, Field field) {
  const auto count = static_cast<std::int64_t>(records.size());
  at::Tensor packed = at::empty(width == 0 ? std::vector<std::int64_t>{count} : std::vector<std::int64_t>{count, width},
                                at::TensorOptions().dtype(dtype_of<T>()));
  const std::size_t bytes = sizeof(T) * static_cast<std::size_t>(std::max<std::int64_t>(width, 1));
  auto* out = static_cast<std::byte*>(packed.data_ptr());
  for (const SampleRecord& record : records) {
    std::memcpy(out, field(record), bytes);
    out += bytes;
  }
  return packed;
}

void check_rows(const BucketRows& rows, const std::string& what) {
  const auto count = static_cast<std::int64_t>(rows.records.size());
  const at::Tensor& mean = rows.latent_mean;
  TORCH_CHECK(count > 0, what, ": a bucket without samples");
  TORCH_CHECK(mean.dim() == 4 && mean.size(0) == count && mean.scalar_type() == at::kHalf, what,
              ": latent_mean (N,C,h,w) f16");
  TORCH_CHECK(rows.latent_std.sizes() == mean.sizes() && rows.latent_std.scalar_type() == at::kHalf, what,
              ": latent_std as latent_mean");
  if (rows.mask.defined()) {
    TORCH_CHECK(rows.mask.sizes() == at::IntArrayRef({count, mean.size(2), mean.size(3)}) &&
                    rows.mask.scalar_type() == at::kByte,
                what, ": mask (N,h,w) u8");
  }
  for (std::size_t i = 1; i < rows.records.size(); ++i) {
    TORCH_CHECK(rows.records[i - 1].sample_id < rows.records[i].sample_id, what, ": samples in order of sample_id");
  }
}

void write_bucket(hid_t file, const std::string& name, const BucketRows& rows, const std::string& path) {
  const std::string what = path + ":/" + name;
  check_rows(rows, what);
  const hdf5::Id group = hdf5::create_group(file, name, what);
  const auto write = [&](const char* dataset, const at::Tensor& tensor, std::int64_t chunk_rows) {
    hdf5::write_dataset(group, dataset, tensor.cpu().contiguous(), chunk_rows, what + "/" + dataset);
  };
  const std::vector<SampleRecord>& records = rows.records;
  const auto all = static_cast<std::int64_t>(records.size());
  write("latent_mean", rows.latent_mean, 1);
  write("latent_std", rows.latent_std, 1);
  if (rows.mask.defined()) write("mask", rows.mask, 1);
  write("sample_id", pack_field<std::uint64_t>(records, 0, [](const SampleRecord& r) { return &r.sample_id; }), all);
  write("image_sha256", pack_field<std::uint8_t>(records, 32, [](auto& r) { return r.image_sha256.data(); }), all);
  write("variant", pack_field<std::uint8_t>(records, 0, [](auto& r) { return &r.variant; }), all);
  write("original_size", pack_field<std::int32_t>(records, 2, [](auto& r) { return r.original_size.data(); }), all);
  write("crop", pack_field<std::int32_t>(records, 4, [](auto& r) { return r.crop.data(); }), all);
  write("split", pack_field<std::uint8_t>(records, 0, [](auto& r) { return &r.split; }), all);
}

/// Copies one field from its dataset into every record, `field` giving a pointer to its `width` values.
template <class T, class Field>
void unpack_field(hid_t group, const char* name, std::int64_t width, const std::string& path,
                  std::vector<SampleRecord>& records, Field field) {
  const std::string what = path + "/" + name;
  const hdf5::Dataset dataset = hdf5::open_dataset(group, name, dtype_of<T>(), width == 0 ? 1 : 2, what);
  const auto count = static_cast<std::int64_t>(records.size());
  if (dataset.shape[0] != count || (width != 0 && dataset.shape[1] != width)) {
    fail_input(what, ": expected ", count, " rows", width == 0 ? std::string() : cat(" of ", width), ", found ",
               dataset.shape[0], width == 0 ? std::string() : cat(" of ", dataset.shape[1]), ".");
  }
  const at::Tensor packed = hdf5::read_rows(dataset, 0, count, what);
  const std::size_t bytes = sizeof(T) * static_cast<std::size_t>(std::max<std::int64_t>(width, 1));
  const auto* in = static_cast<const std::byte*>(packed.const_data_ptr());
  for (SampleRecord& record : records) {
    std::memcpy(field(record), in, bytes);
    in += bytes;
  }
}

void check_records(const std::vector<SampleRecord>& records, const std::string& what) {
  for (std::size_t i = 0; i < records.size(); ++i) {
    const SampleRecord& record = records[i];
    if (record.split > Split::test)
      fail_input(what, "/split: expected 0, 1 or 2 in row ", i, ", found ", int(record.split), ".");
    if (record.variant > 1)
      fail_input(what, "/variant: expected 0 or 1 in row ", i, ", found ", int(record.variant), ".");
    if (i > 0 && records[i - 1].sample_id >= record.sample_id) {
      fail_input(what, "/sample_id: expected ids in rising order, found ", record.sample_id, " after ",
                 records[i - 1].sample_id, ".");
    }
  }
}

std::vector<SampleRecord> read_records(hid_t group, std::int64_t count, const std::string& what) {
  std::vector<SampleRecord> records(static_cast<std::size_t>(count));
  unpack_field<std::uint64_t>(group, "sample_id", 0, what, records, [](SampleRecord& r) { return &r.sample_id; });
  unpack_field<std::uint8_t>(group, "image_sha256", 32, what, records, [](auto& r) { return r.image_sha256.data(); });
  unpack_field<std::uint8_t>(group, "variant", 0, what, records, [](auto& r) { return &r.variant; });
  unpack_field<std::int32_t>(group, "original_size", 2, what, records, [](auto& r) { return r.original_size.data(); });
  unpack_field<std::int32_t>(group, "crop", 4, what, records, [](auto& r) { return r.crop.data(); });
  unpack_field<std::uint8_t>(group, "split", 0, what, records, [](auto& r) { return &r.split; });
  check_records(records, what);
  return records;
}

/// A positive decimal number without sign or leading zeros; 0 if it is none.
std::int32_t parse_pixels(const std::string& text) {
  std::int32_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool whole = error == std::errc() && end == text.data() + text.size() && !text.empty();
  return whole && text[0] != '0' && value > 0 && value <= 65536 ? value : 0;
}

/// `where` starts the error message.
BucketSize parse_bucket(const std::string& name, const std::string& where) {
  const std::size_t x = name.find('x');
  BucketSize size;
  if (x != std::string::npos) size = {parse_pixels(name.substr(0, x)), parse_pixels(name.substr(x + 1))};
  if (size.width == 0 || size.height == 0) {
    fail_input(where, "bucket '", printable(name), "': expected <width>x<height> in pixels, for example 512x768.");
  }
  return size;
}

}  // namespace

std::string BucketSize::name() const { return cat(width, "x", height); }

BucketSize BucketSize::parse(const std::string& name) { return parse_bucket(name, ""); }

void write_latent_part(const std::filesystem::path& file, const std::map<BucketSize, BucketRows>& buckets) {
  write_atomically(file, [&](const std::filesystem::path& temporary) {
    const hdf5::Lock lock;
    hdf5::Id out = hdf5::create_file(temporary, hdf5::Format::checksummed);
    {
      const hdf5::Id root = hdf5::open_group(out, "/", file.string());
      hdf5::write_attribute(root, "format", std::string(kFormat), file.string());
      hdf5::write_attribute(root, "version", kVersion, file.string());
    }
    for (const auto& [size, rows] : buckets) write_bucket(out, size.name(), rows, file.string());
    if (out.reset() < 0) fail(file, ": cannot write: ", hdf5::last_error(), ".");
  });
}

struct LatentPart::Impl {
  struct Bucket {
    std::vector<SampleRecord> records;
    hdf5::Dataset mean, std;
    std::optional<hdf5::Dataset> mask;
  };
  std::filesystem::path path;
  hdf5::Id file;
  std::map<BucketSize, Bucket> buckets;

  std::string what(const BucketSize& size) const { return path.string() + ":/" + size.name(); }

  const Bucket& bucket(const BucketSize& size) const {
    const auto found = buckets.find(size);
    if (found == buckets.end()) fail_input(path, ": expected a bucket ", size.name(), ", found none.");
    return found->second;
  }
  const Bucket& bucket_with_row(const BucketSize& size, std::int64_t row) const {
    const Bucket& found = bucket(size);
    const auto count = static_cast<std::int64_t>(found.records.size());
    if (row < 0 || row >= count) fail_input(what(size), ": expected a row below ", count, ", found ", row, ".");
    return found;
  }
  void open_bucket(const BucketSize& size);
};

void LatentPart::Impl::open_bucket(const BucketSize& size) {
  const std::string where = what(size);
  const hdf5::Id group = hdf5::open_group(file, size.name(), where);
  const std::vector<std::string> names = hdf5::link_names(group, 64, where);
  Bucket opened;
  opened.mean = hdf5::open_dataset(group, "latent_mean", at::kHalf, 4, where + "/latent_mean");
  opened.std = hdf5::open_dataset(group, "latent_std", at::kHalf, 4, where + "/latent_std");
  if (opened.std.shape != opened.mean.shape) {
    fail_input(where, "/latent_std: expected the shape of latent_mean, ", at::IntArrayRef(opened.mean.shape),
               ", found ", at::IntArrayRef(opened.std.shape), ".");
  }
  if (std::find(names.begin(), names.end(), "mask") != names.end()) {
    opened.mask = hdf5::open_dataset(group, "mask", at::kByte, 3, where + "/mask");
    const std::vector<std::int64_t> expected{opened.mean.shape[0], opened.mean.shape[2], opened.mean.shape[3]};
    if (opened.mask->shape != expected) {
      fail_input(where, "/mask: expected shape ", at::IntArrayRef(expected), ", found ",
                 at::IntArrayRef(opened.mask->shape), ".");
    }
  }
  opened.records = read_records(group, opened.mean.shape[0], where);
  buckets.emplace(size, std::move(opened));
}

LatentPart::LatentPart(const std::filesystem::path& file) : impl_(std::make_unique<Impl>()) {
  const hdf5::Lock lock;
  impl_->path = file;
  impl_->file = hdf5::open_file(file);
  const hdf5::Id root = hdf5::open_group(impl_->file, "/", file.string());
  const std::string format = hdf5::read_text_attribute(root, "format", file.string());
  const std::int64_t version = hdf5::read_integer_attribute(root, "version", file.string());
  if (format != kFormat || version != kVersion) {
    fail_input(file, ": expected format ", kFormat, " version ", kVersion, ", found '", printable(format), "' version ",
               version, ". Prepare the dataset again with this version of ldmtune.");
  }
  for (const std::string& name : hdf5::link_names(root, kMostBuckets, file.string())) {
    impl_->open_bucket(parse_bucket(name, file.string() + ": "));
  }
}

LatentPart::~LatentPart() {
  const hdf5::Lock lock;
  impl_.reset();
}
LatentPart::LatentPart(LatentPart&&) noexcept = default;
LatentPart& LatentPart::operator=(LatentPart&& other) noexcept {
  const hdf5::Lock lock;
  impl_ = std::move(other.impl_);
  return *this;
}

std::vector<BucketSize> LatentPart::buckets() const {
  std::vector<BucketSize> sizes;
  for (const auto& [size, bucket] : impl_->buckets) sizes.push_back(size);
  return sizes;
}

const std::vector<SampleRecord>& LatentPart::records(const BucketSize& bucket) const {
  return impl_->bucket(bucket).records;
}

std::vector<std::int64_t> LatentPart::latent_shape(const BucketSize& bucket) const {
  const std::vector<std::int64_t>& shape = impl_->bucket(bucket).mean.shape;
  return {shape.begin() + 1, shape.end()};
}

at::Tensor LatentPart::read_latent(const BucketSize& bucket, std::int64_t row) const {
  const hdf5::Lock lock;
  const Impl::Bucket& from = impl_->bucket_with_row(bucket, row);
  const std::string what = impl_->what(bucket);
  return at::cat({hdf5::read_rows(from.mean, row, 1, what + "/latent_mean"),
                  hdf5::read_rows(from.std, row, 1, what + "/latent_std")});
}

bool LatentPart::has_mask(const BucketSize& bucket) const { return impl_->bucket(bucket).mask.has_value(); }

at::Tensor LatentPart::read_mask(const BucketSize& bucket, std::int64_t row) const {
  const hdf5::Lock lock;
  const Impl::Bucket& from = impl_->bucket_with_row(bucket, row);
  if (!from.mask) return {};
  return hdf5::read_rows(*from.mask, row, 1, impl_->what(bucket) + "/mask").squeeze(0);
}

}  // namespace ldmtune::store
