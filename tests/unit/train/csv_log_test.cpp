#include "train/csv_log.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "core/error.h"
#include "store/files.h"

namespace ldmtune::train {
namespace {

class CsvLogTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / ("ldmtune-csv-" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder_);
    file_ = folder_ / "metrics.csv";
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string text() const { return store::read_text(file_); }

  std::filesystem::path folder_, file_;
};

TEST_F(CsvLogTest, WritesHeaderAndRows) {
  CsvLog log(file_, {"step", "source"}, -1);
  log.append({"1", "a, \"b\".png"});
  EXPECT_EQ(text(), "step,source\n1,\"a, \"\"b\"\".png\"\n");
}

TEST_F(CsvLogTest, ResumeCutsBackToTheCheckpoint) {
  store::write_text(file_, "step,loss\n1,0.5\n2,0.4\n3,0.3\n4,0.");
  CsvLog log(file_, {"step", "loss"}, 2);
  log.append({"3", "0.31"});
  EXPECT_EQ(text(), "step,loss\n1,0.5\n2,0.4\n3,0.31\n");
}

TEST_F(CsvLogTest, AFreshRunStartsEmpty) {
  store::write_text(file_, "step,loss\n1,0.5\n");
  const CsvLog log(file_, {"step", "loss"}, -1);
  EXPECT_EQ(text(), "step,loss\n");
}

TEST_F(CsvLogTest, ARowOfAnotherWidthIsRefused) {
  CsvLog log(file_, {"step", "loss"}, -1);
  EXPECT_THROW(log.append({"1"}), Error);
}

}  // namespace
}  // namespace ldmtune::train
