#pragma once
// A folder that goes away with the test, small pictures, and the embedded base.

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "core/error.h"
#include "model/base_model.h"
#include "store/image.h"

namespace ldmtune::pipeline {

/// The message of the InputError that `work` throws; fails the test if it throws none.
template <class Work>
std::string input_error(Work work) {
  try {
    work();
  } catch (const InputError& error) {
    return error.what();
  }
  ADD_FAILURE() << "expected an InputError";
  return "";
}

inline bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

class PipelineTest : public ::testing::Test {
 protected:
  PipelineTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "ldmtune-pipeline-XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
  }
  ~PipelineTest() override { std::filesystem::remove_all(folder_); }

  /// The embedded base, loaded once for all tests of the program.
  static const model::BaseModel& base() {
    static const model::BaseModel loaded = model::load_base_model(base_folder());
    return loaded;
  }
  static std::filesystem::path base_folder() {
    return std::filesystem::path(LDMTUNE_SOURCE_DIR) / "datasets" / "emoji-base";
  }

  /// A smooth picture (height, width, 3) that differs with `number`.
  static at::Tensor picture(std::int64_t height, std::int64_t width, int number) {
    const at::Tensor y = at::arange(height, at::kFloat).view({-1, 1, 1}) / static_cast<double>(height);
    const at::Tensor x = at::arange(width, at::kFloat).view({1, -1, 1}) / static_cast<double>(width);
    const at::Tensor channel = at::arange(3, at::kFloat).view({1, 1, -1});
    return at::sin(6 * x + number + channel).mul(at::cos(4 * y + 2 * channel)).mul(100).add(128).to(at::kByte);
  }
  void write_picture(const std::string& name, std::int64_t height, std::int64_t width, int number) const {
    store::write_png(folder_ / name, picture(height, width, number));
  }
  void write_file(const std::string& name, const std::string& text) const { std::ofstream(folder_ / name) << text; }

  std::filesystem::path folder_;
};

}  // namespace ldmtune::pipeline
