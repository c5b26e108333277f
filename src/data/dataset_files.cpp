// index.json and captions.jsonl of a dataset folder.

#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "core/error.h"
#include "data/captions.h"
#include "data/json_object.h"
#include "data/latent_dataset.h"
#include "data/text.h"
#include "store/files.h"

namespace ldmtune::data {
namespace {

constexpr const char* kFormat = "ldmtune-latents";
constexpr std::uint64_t kVersion = 1;
constexpr std::uintmax_t kCaptionsLimit = std::uintmax_t{4} << 30;

// Parts lie in the folder itself: a name that leads elsewhere is refused.
void check_part_name(const std::string& name, const std::string& where) {
  const std::filesystem::path path(name);
  if (name.empty() || path.filename() != path || name == "." || name == ".." || name.find('\0') != std::string::npos) {
    fail_input(where, ": key \"file\": expected the name of a file in the folder, found '", name, "'");
  }
}

std::vector<DatasetIndex::Part> parse_parts(const nlohmann::json& list, const std::string& where) {
  std::vector<DatasetIndex::Part> parts;
  std::set<std::string> names;
  for (std::size_t i = 0; i < list.size(); ++i) {
    const std::string place = cat(where, ": parts[", i, "]");
    const JsonObject object(list[i], place);
    DatasetIndex::Part part{object.text("file"), object.sha256("sha256"), object.count("samples")};
    check_part_name(part.file, place);
    if (!names.insert(part.file).second) fail_input(place, ": part '", part.file, "' is listed twice");
    parts.push_back(std::move(part));
  }
  if (parts.empty()) fail_input(where, ": key \"parts\": expected at least one part, found none");
  return parts;
}

std::vector<store::BucketSize> parse_buckets(const nlohmann::json& list, const std::string& where) {
  std::vector<store::BucketSize> buckets;
  for (const nlohmann::json& name : list) {
    if (!name.is_string())
      fail_input(where, ": key \"buckets\": expected names such as \"512x512\", found ", name.dump());
    try {
      buckets.push_back(store::BucketSize::parse(name.get<std::string>()));
    } catch (const InputError& error) {
      fail_input(where, ": key \"buckets\": ", error.what());
    }
  }
  const std::set<store::BucketSize> distinct(buckets.begin(), buckets.end());
  if (buckets.empty() || distinct.size() != buckets.size()) {
    fail_input(where, ": key \"buckets\": expected at least one bucket and each once, found ", list.dump());
  }
  return buckets;
}

}  // namespace

DatasetIndex read_dataset_index(const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / "index.json";
  std::error_code ignored;
  if (!std::filesystem::exists(file, ignored)) {
    fail_input(folder.string(),
               ": expected a dataset folder with index.json, found none; make one with `ldmtune prepare`");
  }
  const nlohmann::json json = store::read_json(file);
  const std::string where = file.string();
  const JsonObject object(json, where);
  const std::string format = object.text("format");
  if (format != kFormat) fail_input(where, ": key \"format\": expected \"", kFormat, "\", found \"", format, "\"");
  const std::uint64_t version = object.count("version");
  if (version != kVersion) {
    fail_input(where, ": key \"version\": expected ", kVersion, ", found ", version, "; this ldmtune reads version ",
               kVersion, " only: prepare the dataset again, or update ldmtune");
  }
  DatasetIndex index;
  index.parts = parse_parts(object.list("parts"), where);
  index.base_sha256 = object.sha256("base_sha256");
  index.vae_sha256 = object.sha256("vae_sha256");
  index.scaling_factor = object.number("scaling_factor");
  if (!std::isfinite(index.scaling_factor) || index.scaling_factor <= 0) {
    fail_input(where, ": key \"scaling_factor\": expected a number above 0, found ", index.scaling_factor);
  }
  const std::uint64_t channels = object.count("latent_channels");
  if (channels < 1 || channels > 1024) {
    fail_input(where, ": key \"latent_channels\": expected 1 to 1024, found ", channels);
  }
  index.latent_channels = static_cast<std::int64_t>(channels);
  index.buckets = parse_buckets(object.list("buckets"), where);
  index.captions_sha256 = object.sha256("captions_sha256");
  return index;
}

void write_dataset_index(const std::filesystem::path& folder, const DatasetIndex& index) {
  nlohmann::json parts = nlohmann::json::array();
  for (const DatasetIndex::Part& part : index.parts) {
    parts.push_back({{"file", part.file}, {"sha256", part.sha256}, {"samples", part.samples}});
  }
  nlohmann::json buckets = nlohmann::json::array();
  for (const store::BucketSize& bucket : index.buckets) buckets.push_back(bucket.name());
  store::write_json(folder / "index.json", {{"format", kFormat},
                                            {"version", kVersion},
                                            {"parts", std::move(parts)},
                                            {"base_sha256", index.base_sha256},
                                            {"vae_sha256", index.vae_sha256},
                                            {"scaling_factor", index.scaling_factor},
                                            {"latent_channels", index.latent_channels},
                                            {"buckets", std::move(buckets)},
                                            {"captions_sha256", index.captions_sha256}});
}

std::vector<Caption> read_captions(const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / "captions.jsonl";
  const std::string content = store::read_text(file, kCaptionsLimit);
  std::vector<Caption> captions;
  std::set<std::uint64_t> ids;
  for (const Line& line : nonblank_lines(content)) {
    const std::string where = cat(file.string(), ":", line.number);
    const nlohmann::json json = parse_object(line.text, where);
    const JsonObject object(json, where);
    Caption caption{object.count("sample_id"), object.text("source"), object.text("text"), 1};
    check_caption(caption.text, where);
    if (json.contains("repeats")) caption.repeats = object.count("repeats");
    if (caption.repeats < 1 || caption.repeats > kRepeatsLimit) {
      fail_input(where, ": key \"repeats\": expected 1 to ", kRepeatsLimit, ", found ", caption.repeats);
    }
    if (!ids.insert(caption.sample_id).second) {
      fail_input(where, ": sample_id ", caption.sample_id, " has a caption already; expected one for each sample");
    }
    captions.push_back(std::move(caption));
  }
  return captions;
}

std::string write_captions(const std::filesystem::path& folder, const std::vector<Caption>& captions) {
  std::string content;
  for (const Caption& caption : captions) {
    check_caption(caption.source, cat("file name of sample ", caption.sample_id));
    check_caption(caption.text, cat("caption of '", caption.source, "'"));
    nlohmann::json line{{"sample_id", caption.sample_id}, {"source", caption.source}, {"text", caption.text}};
    if (caption.repeats != 1) line["repeats"] = caption.repeats;
    content += line.dump() + "\n";
  }
  store::write_text(folder / "captions.jsonl", content);
  return store::sha256_text(content);
}

}  // namespace ldmtune::data
