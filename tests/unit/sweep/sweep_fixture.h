#pragma once
// A small sweep whose trials are "trained" by a function that only writes a run folder.

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "store/files.h"
#include "sweep/grid.h"
#include "sweep/trials.h"

namespace ldmtune::sweep {

class SweepTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    root_ = std::filesystem::temp_directory_path() /
            ("ldmtune-" + std::string(info->test_suite_name()) + info->name() + std::to_string(getpid()));
    std::filesystem::create_directories(root_ / "data");
    store::write_text(root_ / "data" / "index.json", "{\"first\": true}");
    comm_ = comm::self();
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  std::vector<OptionSetting> settings(const std::vector<std::pair<std::string, std::string>>& more = {}) const {
    std::vector<OptionSetting> list{{"data", (root_ / "data").string(), "test"},
                                    {"sweep.output", (root_ / "sweep").string(), "test"},
                                    {"hypernetwork.layer_structure", "1,2,1 | 1,2,4,2,1", "test"},
                                    {"hypernetwork.layer_norm", "false|true", "test"}};
    for (const auto& [name, value] : more) list.push_back({name, value, "test"});
    return list;
  }

  /// Writes result.json with a held-out loss of 0.1 + 0.01 * (number of the run), or what `losses_` says for the
  /// trial's folder.
  Trainer trainer() {
    return [this](const TrainConfig& config, comm::Communicator&) {
      runs_.push_back(config);
      const double loss = 0.1 + 0.01 * static_cast<double>(runs_.size());
      write_result(config.output, loss);
      return ExitCode::done;
    };
  }

  void write_result(const std::filesystem::path& folder, double heldout_loss) const {
    const std::filesystem::path checkpoint = folder / "checkpoints" / "step-00000010";
    std::filesystem::create_directories(checkpoint);
    std::ofstream(checkpoint / "net.pt") << "weights of " << folder.filename().string();
    store::write_json(folder / "result.json", {{"status", "done"},
                                               {"heldout_loss", heldout_loss},
                                               {"base_heldout_loss", 0.5},
                                               {"concept_train_loss", 0.05},
                                               {"adjacent_loss", nullptr},
                                               {"test_loss", 1.0 - heldout_loss},
                                               {"steps", 10},
                                               {"dataset_sha256", store::sha256_file(root_ / "data" / "index.json")},
                                               {"export", "checkpoints/step-00000010/net.pt"}});
  }

  std::filesystem::path root_;
  std::unique_ptr<comm::Communicator> comm_;
  std::vector<TrainConfig> runs_;
};

}  // namespace ldmtune::sweep
