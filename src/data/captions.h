#pragma once
// Captions: where they come from, templates, dropout.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace ldmtune::data {

/// One image of a folder and what is known about it.
struct ImageEntry {
  std::filesystem::path file;  ///< as given: folder / source
  std::string source;          ///< relative to the folder
  std::string text;
  std::optional<std::string> split;  ///< "train" | "validation" | "test"
  std::optional<std::string> group;  ///< images of one group never straddle splits
  std::optional<bool> known;         ///< whether the base knows the concept; only metadata.jsonl says
  std::uint64_t repeats = 1;         ///< how often one pass over the data takes it
};
/// The most repeats that are believed.
constexpr std::uint64_t kRepeatsLimit = 1000;

/// Lists a folder's images (png, jpg, jpeg, webp in any case; sorted by name) with captions: metadata.jsonl
/// ({"file_name", "text"[, "split", "group", "known", "repeats"]}; then only images it lists are taken, folders below
/// included) else NAME.txt, NAME.caption, else caption_of_file_name. Without metadata.jsonl, folders below that are
/// named as kohya's are taken too: those of "10_sks dog" are repeated 10 times, and have "sks dog" as caption where no
/// file beside them says otherwise; "0_..." is left out. Other keys of metadata.jsonl are ignored. Errors: InputError
/// naming file and line (missing image, bad JSON, bad UTF-8, NUL, caption above 64 KiB, a caption missing in metadata
/// or in the file name, a duplicate, something that is no regular file, a name with a line end).
std::vector<ImageEntry> list_images(const std::filesystem::path& folder);

/// The caption in a file name as AUTOMATIC1111 reads it: "00012-3-red fox.png" is "red fox". The extension goes, then
/// leading digits and '-', then blanks (and '_', which it would keep: "0001_fox").
std::string caption_of_file_name(std::string_view file_name);

/// Caption templates: `text` is "" (the caption itself), one template, or the path of a file with one template a line.
/// [filewords] and {} stand for the caption, [name] for `name`.
class CaptionTemplates {
 public:
  /// Errors: InputError naming caption.template (a .txt that is not there, an empty file, no UTF-8 ...) or caption.name
  /// ([name] is used and `name` is empty: the message ends with `remedy`).
  CaptionTemplates(const std::string& text, std::string name, const std::string& remedy = "set caption.name");
  /// The caption as trained: the template chosen by Philox (caption_template; integer(0, number of templates)) for this
  /// draw, and "" with probability `dropout` (caption_dropout; uniform(0) < dropout).
  std::string apply(const std::string& caption, std::uint64_t seed, std::uint32_t dataset, std::uint64_t draw,
                    double dropout) const;
  /// The first template, without dropout: validation and previews.
  std::string plain(const std::string& caption) const;

 private:
  std::string fill(const std::string& pattern, const std::string& caption) const;

  std::vector<std::string> templates_;
  std::string name_;
};

}  // namespace ldmtune::data
