#include "pipeline/dataset_writer.h"

#include <cstdio>
#include <system_error>
#include <utility>

#include "core/error.h"
#include "store/files.h"

namespace ldmtune::pipeline {
namespace {

namespace fs = std::filesystem;

fs::path without_trailing_slash(const fs::path& folder) {
  return folder.has_filename() ? folder : folder.parent_path();
}

fs::path partial_of(const fs::path& output) { return without_trailing_slash(output).concat(".partial"); }

constexpr const char* kOriginKeys[] = {"images", "resolution", "random_flip", "mask"};

}  // namespace

void PartialFolder::expect_free(const fs::path& output) {
  if (fs::symlink_status(without_trailing_slash(output)).type() != fs::file_type::not_found) {
    fail_input("output: ", output.string(),
               " is there already and is not written over; remove it or name another folder");
  }
  const fs::path partial = partial_of(output);
  if (fs::symlink_status(partial).type() != fs::file_type::not_found) {
    fail_input("output: ", partial.string(),
               " is there: another prepare is writing it, or one was killed; if none runs, remove it");
  }
  for (fs::path above = fs::absolute(output).parent_path(); !above.empty(); above = above.parent_path()) {
    if (fs::is_directory(above)) break;
    if (fs::exists(above))
      fail_input("output: ", above.string(), " is no folder, so ", output.string(), " cannot lie in it");
  }
}

PartialFolder::PartialFolder(const fs::path& output)
    : output_(without_trailing_slash(output)), partial_(partial_of(output)) {
  const fs::path parent = fs::absolute(partial_).parent_path();
  for (fs::path above = parent; !fs::exists(above); above = above.parent_path()) first_created_ = above;
  std::error_code error;
  fs::create_directories(parent, error);
  if (!error && !fs::create_directory(partial_, error) && !error) error = std::make_error_code(std::errc::file_exists);
  if (error) {
    const std::string reason = error.message();
    if (!first_created_.empty()) fs::remove_all(first_created_, error);
    fail_input("output: cannot create ", partial_.string(), ": ", reason);
  }
}

PartialFolder::~PartialFolder() {
  if (committed_) return;
  std::error_code ignored;
  fs::remove_all(partial_, ignored);
  // Only folders that are empty again: another program may have put something there meanwhile.
  if (first_created_.empty()) return;
  for (fs::path above = fs::absolute(partial_).parent_path();; above = above.parent_path()) {
    fs::remove(above, ignored);
    if (above == first_created_ || ignored) return;
  }
}

void PartialFolder::commit() {
  store::sync_folder(partial_);
  std::error_code error;
  fs::rename(partial_, output_, error);
  if (error) fail("cannot rename ", partial_.string(), " to ", output_.string(), ": ", error.message());
  committed_ = true;
}

PartWriter::PartWriter(fs::path folder, store::BucketSize bucket, std::uint64_t samples_per_part)
    : folder_(std::move(folder)), bucket_(bucket), samples_per_part_(samples_per_part) {}

void PartWriter::append(const std::vector<store::SampleRecord>& records, const at::Tensor& latent_mean,
                        const at::Tensor& latent_std, const at::Tensor& mask) {
  records_.insert(records_.end(), records.begin(), records.end());
  means_.push_back(latent_mean);
  stds_.push_back(latent_std);
  if (mask.defined()) masks_.push_back(mask);
  if (records_.size() > samples_per_part_) throw std::logic_error("PartWriter: append beyond the end of a part");
}

void PartWriter::flush(bool last) {
  if (records_.empty() || (!last && records_.size() < samples_per_part_)) return;
  char name[32];
  std::snprintf(name, sizeof name, "part-%05zu.h5", parts_.size());
  const std::uint64_t samples = records_.size();
  std::map<store::BucketSize, store::BucketRows> buckets;
  buckets[bucket_] = {std::move(records_), at::cat(means_), at::cat(stds_),
                      masks_.empty() ? at::Tensor() : at::cat(masks_)};
  records_.clear();
  means_.clear();
  stds_.clear();
  masks_.clear();
  store::write_latent_part(folder_ / name, buckets);
  parts_.push_back({name, store::sha256_file(folder_ / name), samples});
}

void write_index_with_origin(const fs::path& folder, const data::DatasetIndex& index, const nlohmann::json& origin) {
  data::write_dataset_index(folder, index);
  nlohmann::json whole = store::read_json(folder / "index.json");
  whole.update(origin);
  store::write_json(folder / "index.json", whole);
}

nlohmann::json read_origin(const fs::path& folder) {
  const nlohmann::json whole = store::read_json(folder / "index.json");
  nlohmann::json origin = nlohmann::json::object();
  for (const char* key : kOriginKeys) {
    if (whole.contains(key)) origin[key] = whole.at(key);
  }
  return origin;
}

}  // namespace ldmtune::pipeline
