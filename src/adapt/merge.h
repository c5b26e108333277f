#pragma once
// base.merge: LoRA files added to a base's weights, for any method to train on and for pictures.

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "adapt/lora.h"

namespace ldmtune::adapt {

/// A file and its strength.
struct WeightedFile {
  std::filesystem::path file;
  double strength = 1.0;
};
/// "style.safetensors:0.8" -> (style.safetensors, 0.8); without a number behind the last colon the strength is 1.
/// `option` names it for errors: InputError if the strength is not finite.
WeightedFile parse_weighted_file(const std::string& text, const std::string& option);
/// Several, separated by commas.
std::vector<WeightedFile> parse_weighted_files(const std::string& text, const std::string& option);

/// W += strength * alpha / rank * B A for every layer of every file, in fp32, in order; the tensors stay those that the
/// modules hold. base.sha256 then covers what was merged too: sha256_text("merged <base> <lora> <strength>\n") for each
/// file, <lora> being the hash of its factors and scales whatever layout they were stored in. An empty `merge` changes
/// nothing. Errors: InputError of read_lora.
void merge_into(model::BaseModel& base, const std::string& merge);

}  // namespace ldmtune::adapt
