// The images of a folder and their captions.

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <set>
#include <utility>

#include "core/error.h"
#include "data/captions.h"
#include "data/json_object.h"
#include "data/text.h"
#include "store/files.h"

namespace ldmtune::data {
namespace {

namespace fs = std::filesystem;

bool is_image_name(const fs::path& file) {
  std::string extension = file.extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  constexpr std::array<std::string_view, 4> kExtensions{".png", ".jpg", ".jpeg", ".webp"};
  return std::find(kExtensions.begin(), kExtensions.end(), extension) != kExtensions.end();
}

// True if there is something at `file`; whatever cannot be looked at (a symlink loop) is an error.
bool is_there(const fs::path& file) {
  std::error_code error;
  const fs::file_status status = fs::status(file, error);
  if (status.type() == fs::file_type::not_found) return false;
  if (error) fail_input(file.string(), ": expected a readable file, found: ", error.message());
  return true;
}

void check_regular(const fs::path& file, const std::string& where) {
  if (!is_there(file)) fail_input(where, ": expected image ", file.string(), ", found no such file");
  if (!fs::is_regular_file(file)) {
    fail_input(where, ": expected ", file.string(), " to be an image file, found a folder, pipe or device");
  }
}

// Control characters in a name are shown as '?', so that an error stays on its line.
std::string printable(std::string text) {
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = '?';
  }
  return text;
}

void check_source(const std::string& source, const std::string& where) {
  const bool has_control = std::any_of(source.begin(), source.end(),
                                       [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7F; });
  if (has_control) {
    fail_input(where, ": expected file names without line ends and control characters, found '", printable(source),
               "'; rename the file");
  }
  if (find_bad_utf8(source) != std::string::npos) {
    fail_input(where, ": expected file names in UTF-8, found '", source, "'; rename the file");
  }
}

std::string read_caption_file(const fs::path& file) {
  std::string text = store::read_text(file);
  if (text.starts_with("\xEF\xBB\xBF")) text.erase(0, 3);
  text = std::string(trimmed(text));
  check_caption(text, file.string());
  return text;
}

std::optional<std::string> caption_in_file_beside(const fs::path& image) {
  for (const char* extension : {".txt", ".caption"}) {
    const fs::path file = fs::path(image).replace_extension(extension);
    if (is_there(file)) return read_caption_file(file);
  }
  return std::nullopt;
}

std::string caption_beside(const fs::path& image) {
  if (auto beside = caption_in_file_beside(image)) return *beside;
  std::string text = caption_of_file_name(image.filename().string());
  if (text.empty()) {
    fail_input(image.string(), ": expected a caption, found none in its name either; write one to ",
               fs::path(image).replace_extension(".txt").string(), " (it may be empty) or to metadata.jsonl");
  }
  check_caption(text, image.string());
  return text;
}

std::uint64_t checked_repeats(std::uint64_t repeats, const std::string& where) {
  if (repeats < 1 || repeats > kRepeatsLimit) {
    fail_input(where, ": expected 1 to ", kRepeatsLimit, " repeats, found ", repeats);
  }
  return repeats;
}

ImageEntry parse_entry(const fs::path& folder, std::string_view line, const std::string& where) {
  const nlohmann::json json = parse_object(line, where);
  const JsonObject object(json, where);
  ImageEntry entry;
  entry.source = object.text("file_name");
  check_source(entry.source, where);
  const fs::path relative = fs::path(entry.source).lexically_normal();
  if (entry.source.empty() || relative.is_absolute() || *relative.begin() == "..") {
    fail_input(where, ": key \"file_name\": expected a file inside the image folder, found '", entry.source, "'");
  }
  if (!is_image_name(relative)) {
    fail_input(where, ": key \"file_name\": expected a .png, .jpg, .jpeg or .webp file, found '", entry.source, "'");
  }
  entry.source = relative.generic_string();
  entry.file = folder / relative;
  entry.text = object.text("text");
  check_caption(entry.text, where + ": key \"text\"");
  entry.split = object.optional_text("split");
  if (entry.split && *entry.split != "train" && *entry.split != "validation" && *entry.split != "test") {
    fail_input(where, ": key \"split\": expected \"train\", \"validation\" or \"test\", found \"", *entry.split, "\"");
  }
  entry.group = object.optional_text("group");
  entry.known = object.optional_bool("known");
  if (json.contains("repeats")) entry.repeats = checked_repeats(object.count("repeats"), where + ": key \"repeats\"");
  return entry;
}

std::vector<ImageEntry> from_metadata(const fs::path& folder, const fs::path& metadata) {
  const std::string content = store::read_text(metadata);
  std::vector<ImageEntry> entries;
  std::set<std::string> sources;
  for (const Line& line : nonblank_lines(content)) {
    const std::string where = cat(metadata.string(), ":", line.number);
    ImageEntry entry = parse_entry(folder, line.text, where);
    if (!sources.insert(entry.source).second) {
      fail_input(where, ": expected each image once, found '", entry.source, "' a second time");
    }
    check_regular(entry.file, where);
    entries.push_back(std::move(entry));
  }
  return entries;
}

fs::directory_iterator items_of(const fs::path& folder) {
  std::error_code error;
  fs::directory_iterator items(folder, error);
  if (error) fail_input(folder.string(), ": expected a readable folder, found: ", error.message());
  return items;
}

/// kohya's folder names: "10_sks dog" is 10 repeats of "sks dog".
struct KohyaFolder {
  std::uint64_t repeats = 0;
  std::string concept_text;
};

std::optional<KohyaFolder> parse_kohya_name(const fs::path& folder) {
  const std::string name = folder.filename().string();
  KohyaFolder parsed;
  const char* last = name.data() + name.size();
  const auto [end, error] = std::from_chars(name.data(), last, parsed.repeats);
  std::error_code ignored;
  const bool fits = error != std::errc::invalid_argument && end + 1 < last && *end == '_';
  if (!fits || !fs::is_directory(folder, ignored)) return std::nullopt;
  if (error != std::errc{}) parsed.repeats = kRepeatsLimit + 1;
  parsed.concept_text = std::string(trimmed(std::string_view(end + 1, last)));
  return parsed;
}

std::vector<ImageEntry> from_kohya_folder(const fs::path& folder, const KohyaFolder& named) {
  std::vector<ImageEntry> entries;
  if (named.repeats == 0) return entries;
  checked_repeats(named.repeats, folder.string() + " (a folder named REPEATS_CONCEPT)");
  for (const fs::directory_entry& item : items_of(folder)) {
    if (!is_image_name(item.path())) continue;
    ImageEntry entry;
    entry.file = item.path();
    entry.source = (folder.filename() / item.path().filename()).generic_string();
    check_source(entry.source, folder.string());
    check_regular(entry.file, folder.string());
    entry.text = caption_in_file_beside(entry.file).value_or(named.concept_text);
    check_caption(entry.text, folder.string());
    entry.repeats = named.repeats;
    entries.push_back(std::move(entry));
  }
  return entries;
}

std::vector<ImageEntry> from_folder(const fs::path& folder) {
  std::vector<ImageEntry> entries;
  for (const fs::directory_entry& item : items_of(folder)) {
    if (const auto named = parse_kohya_name(item.path())) {
      for (ImageEntry& entry : from_kohya_folder(item.path(), *named)) entries.push_back(std::move(entry));
      continue;
    }
    if (!is_image_name(item.path())) continue;
    ImageEntry entry;
    entry.source = item.path().filename().string();
    check_source(entry.source, folder.string());
    entry.file = folder / entry.source;
    check_regular(entry.file, folder.string());
    entry.text = caption_beside(entry.file);
    entries.push_back(std::move(entry));
  }
  return entries;
}

}  // namespace

std::string caption_of_file_name(std::string_view file_name) {
  const auto dot = file_name.rfind('.');
  if (dot != std::string_view::npos && dot > 0) file_name = file_name.substr(0, dot);
  const auto word = file_name.find_first_not_of("0123456789-");
  if (word == std::string_view::npos) return {};
  if (word > 0) {
    file_name.remove_prefix(word);
    file_name.remove_prefix(std::min(file_name.find_first_not_of(" \t_"), file_name.size()));
  }
  return std::string(file_name);
}

std::vector<ImageEntry> list_images(const fs::path& folder) {
  std::error_code error;
  if (!fs::is_directory(folder, error)) {
    fail_input("images: expected a folder of images, found '", folder.string(), "', which is none");
  }
  const fs::path metadata = folder / "metadata.jsonl";
  std::vector<ImageEntry> entries = is_there(metadata) ? from_metadata(folder, metadata) : from_folder(folder);
  if (entries.empty()) {
    fail_input(folder.string(), ": expected at least one .png, .jpg, .jpeg or .webp image, found none");
  }
  std::sort(entries.begin(), entries.end(),
            [](const ImageEntry& a, const ImageEntry& b) { return a.source < b.source; });
  return entries;
}

}  // namespace ldmtune::data
