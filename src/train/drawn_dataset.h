#pragma once
// Datasets of pictures that the base itself draws from prompts where they are not there yet: class images of prior
// preservation, adjacent concepts that measure forgetting.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/config.h"
#include "data/latent_dataset.h"
#include "model/base_model.h"

namespace ldmtune::train {

struct DrawnDataset {
  std::string what;  ///< for people: "class images"
  std::string folder_option, prompts_option, count_option;
  std::filesystem::path folder;
  std::vector<std::string> prompts;  ///< picture i is of prompt i modulo their number
  std::int64_t count = 0;            ///< pictures to draw, and the least that a folder which is there must hold
  std::uint64_t first_index = 0;     ///< picture i starts from the noise of index first_index + i
  std::string base_sha256;           ///< of the base that draws, before base.merge: what `prepare` notes
  std::string file_stem;             ///< of its pictures: "class" for class-000000.png
  std::string split;                 ///< of every picture; empty: as `prepare` splits
};

/// The prompts of an option: as they stand, or the lines of the file that a single one names. Errors: InputError naming
/// the option.
std::vector<std::string> listed_prompts(const std::vector<std::string>& given, const std::string& option);

/// The dataset; one that is not there yet is made, a collective: the untouched base draws the pictures (settings of
/// [sample]), the ranks sharing them, into FOLDER.images, which are then encoded as `prepare` does. A second run that
/// wants the same folder meanwhile waits for it. The folder has the same bytes for any number of ranks.
/// Errors: InputError naming the option: nothing to draw from; where prompts say what the base should have drawn, a
/// folder that another base made, or a caption that is none of them; too few pictures.
std::unique_ptr<data::LatentDataset> open_or_draw(const DrawnDataset& drawn, const TrainConfig& config,
                                                  const model::BaseModel& base, comm::Communicator& comm);

}  // namespace ldmtune::train
