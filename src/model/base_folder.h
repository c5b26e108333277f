#pragma once
// The diffusers folder layout: model_index.json, and one folder a component with its config.json and weights.

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "store/tensor_map.h"

namespace ldmtune::model {

struct BaseModelOptions;

/// Errors: InputError if `folder` is no base model in the diffusers layout, or one that is not built (inpainting,
/// SDXL's refiner, Flux ...), by name; or if a component that `options` ask for is absent or of another class. Returns
/// model_index.json.
nlohmann::json check_model_index(const std::filesystem::path& folder, const BaseModelOptions& options);

/// Whether model_index.json names two text encoders (SDXL).
bool has_two_text_encoders(const nlohmann::json& model_index);

/// A JSON object without its null values (null counts as absent). Errors: InputError naming what is missing.
nlohmann::json read_component_json(const std::filesystem::path& file);

/// Tensors of `<component>/<stem>[.variant].safetensors` or its shards, under the file's keys, finite. Without the
/// asked variant the other file is read. Errors: InputError that says what is there instead (only .bin: convert it).
store::TensorMap read_component_weights(const std::filesystem::path& component, const std::string& stem,
                                        const std::string& variant);

}  // namespace ldmtune::model
