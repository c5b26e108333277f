#pragma once
// Captions: where they come from, templates, dropout.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace ldmtune::data {

/// One image of a folder and what is known about it.
struct ImageEntry {
  std::filesystem::path file;  ///< as given: folder / source
  std::string source;          ///< relative to the folder
  std::string text;
  std::optional<std::string> split;  ///< "train" | "validation" | "test"
  std::optional<std::string> group;  ///< images of one group never straddle splits
};

/// Lists a folder's images (png, jpg, jpeg, webp; sorted by name) with captions: metadata.jsonl ({"file_name", "text"[, "split", "group"]}; then
/// only images it lists are taken) else NAME.txt, NAME.caption, else the file name without leading digits and separators, as AUTOMATIC1111 reads it.
/// Errors: InputError naming file and line (missing image, bad JSON, bad UTF-8, NUL, caption above 64 KiB, a caption missing in metadata, a duplicate).
std::vector<ImageEntry> list_images(const std::filesystem::path& folder);

/// Caption templates: `text` is "" (the caption itself), one template, or the path of a file with one template a line.
/// [filewords] and {} stand for the caption, [name] for `name`.
class CaptionTemplates {
 public:
  CaptionTemplates(const std::string& text, std::string name);
  /// The caption as trained: the template chosen by Philox (caption_template) for this draw, and "" with probability `dropout` (caption_dropout).
  std::string apply(const std::string& caption, std::uint64_t seed, std::uint32_t dataset, std::uint64_t draw, double dropout) const;
  /// The first template, without dropout: validation and previews.
  std::string plain(const std::string& caption) const;

 private:
  std::vector<std::string> templates_;
  std::string name_;
};

}  // namespace ldmtune::data
