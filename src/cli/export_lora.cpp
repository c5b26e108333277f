#include "cli/export_lora.h"

#include "adapt/lora_file.h"
#include "cli/convert.h"
#include "core/config.h"
#include "core/error.h"

namespace ldmtune::cli {

void export_lora(const train::CheckpointState& state, const store::TensorMap& parameters,
                 const std::filesystem::path& checkpoint, const std::string& format, const std::string& name,
                 const std::filesystem::path& output) {
  const adapt::LoraLayout layout = adapt::parse_lora_layout(format);
  expect_safetensors(output);
  TrainConfig config;
  OptionTable table;
  declare(table, config);
  for (const auto& [option, text] : state.config) {
    if (option.starts_with("lora.")) table.set({option, text, (checkpoint / "state.json").string()});
  }
  const adapt::LoraFile file =
      adapt::lora_of_parameters(parameters, config.lora.alpha, checkpoint / "parameters.safetensors");
  adapt::write_lora(*file.lora, *file.arena, output, layout,
                    {name.empty() ? state.adapter_name : name, state.step, state.base_sha256, state.base_name});
}

}  // namespace ldmtune::cli
