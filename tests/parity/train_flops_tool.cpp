// Prints for test_flops.py what train/training_flops.h counts for an update of one sample:
// BASE HEIGHT WIDTH [--section.option value ...]

#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "core/config.h"
#include "model/base_model.h"
#include "train/training_flops.h"
#include "train/trial.h"

int main(int argc, char** argv) {
  using namespace ldmtune;
  try {
    if (argc < 4) return 2;
    TrainConfig config;
    OptionTable table;
    declare(table, config);
    table.set(parse_command_line({argv + 4, argv + argc}).settings);
    config.train.global_batch_size = 1;
    model::BaseModelOptions options;
    options.vae = false;
    const model::BaseModel base = model::load_base_model(argv[1], options);
    const bool has_own = config.method == "hypernetwork" || config.method == "lora";
    const auto trained =
        has_own ? train::make_adapter(config, base)->parameters() : std::vector<optim::ParameterSpec>();
    const std::vector<train::LatentShare> size{{std::stoll(argv[2]), std::stoll(argv[3]), 1}};
    const double loaded = train::update_flops(config, trained, train::shape_of(base), size);
    const double planned = train::update_flops(config, trained, train::read_base_shape(argv[1]), size);
    std::printf("%.0f %.0f\n", loaded, planned);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
