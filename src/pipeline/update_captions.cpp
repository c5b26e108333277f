#include <map>

#include "core/error.h"
#include "core/log.h"
#include "data/captions.h"
#include "data/latent_dataset.h"
#include "pipeline/dataset_writer.h"
#include "pipeline/encode.h"

namespace ldmtune::pipeline {

void update_captions(const PrepareConfig& config) {
  if (config.output.empty())
    fail_input("option output is missing: give --output FOLDER, the dataset whose captions to reread");
  data::DatasetIndex index = data::read_dataset_index(config.output);
  const nlohmann::json origin = read_origin(config.output);
  const std::filesystem::path images = config.images.empty() ? origin.value("images", "") : config.images.string();
  if (images.empty()) fail_input("option images is missing: give --images FOLDER, where the captions are");

  std::map<std::string, data::ImageEntry> texts;
  for (data::ImageEntry& entry : data::list_images(images)) texts[entry.source] = std::move(entry);
  std::vector<data::Caption> captions = data::read_captions(config.output);
  std::size_t changed = 0;
  for (data::Caption& caption : captions) {
    const auto found = texts.find(caption.source);
    if (found == texts.end()) {
      fail_input((images / caption.source).string(), ": image of ", config.output.string(),
                 " not found; give --images the folder "
                 "that the dataset was made of, with the same file names");
    }
    const data::ImageEntry& entry = found->second;
    if (entry.text.find_first_not_of(" \t\r\n") == std::string::npos) {
      fail_input((images / caption.source).string(), ": caption missing");
    }
    changed += caption.text != entry.text || caption.repeats != entry.repeats;
    caption.text = entry.text;
    caption.repeats = entry.repeats;
  }
  // Captions first: a crash in between is reported when the dataset is opened, and mended by running this again.
  index.captions_sha256 = data::write_captions(config.output, captions);
  write_index_with_origin(config.output, index, origin);
  LDMTUNE_LOG(info) << changed << " of " << captions.size() << " captions changed in " << config.output.string();
}

}  // namespace ldmtune::pipeline
