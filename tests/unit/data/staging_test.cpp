#include "data/staging.h"

#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "data_fixture.h"
#include "store/files.h"

namespace ldmtune::data {
namespace {

namespace fs = std::filesystem;

class Staging : public FolderTest {
 protected:
  void SetUp() override {
    FolderTest::SetUp();
    data_ = folder_ / "data";
    scratch_ = folder_ / "scratch" / "of-me";
    fs::create_directories(data_);
    store::write_text(data_ / "captions.jsonl", "captions");
    store::write_text(data_ / "part-00000.h5", "part 0");
    store::write_text(data_ / "part-00001.h5", "part 1");
    index_.parts = {{"part-00000.h5", "", 1}, {"part-00001.h5", "", 1}};
    setenv("LDMTUNE_SCRATCH", scratch_.c_str(), 1);
  }
  void TearDown() override {
    unsetenv("LDMTUNE_SCRATCH");
    FolderTest::TearDown();
  }

  fs::path stage(char key = 'a') const { return staged_dataset(data_, index_, std::string(64, key)); }

  fs::path data_, scratch_;
  DatasetIndex index_;
};

TEST_F(Staging, WithoutScratchTheFolderIsRead) {
  unsetenv("LDMTUNE_SCRATCH");
  EXPECT_EQ(stage(), data_);
  setenv("LDMTUNE_SCRATCH", "", 1);
  EXPECT_EQ(stage(), data_);
}

TEST_F(Staging, CopiesWhatTheIndexListsAndNothingElse) {
  store::write_text(data_ / "stray.txt", "not of the dataset");
  const fs::path copy = stage();
  EXPECT_EQ(copy, scratch_ / ("ldmtune-" + std::string(16, 'a')));
  EXPECT_EQ(store::read_text(copy / "part-00001.h5"), "part 1");
  EXPECT_EQ(store::read_text(copy / "captions.jsonl"), "captions");
  EXPECT_FALSE(fs::exists(copy / "stray.txt"));
  EXPECT_FALSE(fs::exists(copy.string() + ".partial"));
}

TEST_F(Staging, CopiesOnce) {
  const fs::path file = stage() / "part-00000.h5";
  const auto written = fs::last_write_time(file) - std::chrono::hours(1);
  fs::last_write_time(file, written);
  EXPECT_EQ(stage(), file.parent_path());
  EXPECT_EQ(fs::last_write_time(file), written);
}

TEST_F(Staging, AnotherContentIsAnotherCopy) {
  const fs::path first = stage('a');
  store::write_text(data_ / "part-00000.h5", "changed");
  const fs::path second = stage('b');
  EXPECT_NE(first, second);
  EXPECT_EQ(store::read_text(second / "part-00000.h5"), "changed");
  EXPECT_EQ(store::read_text(first / "part-00000.h5"), "part 0");
}

TEST_F(Staging, ACutCopyAndWhatAKilledProcessLeftAreReplaced) {
  const fs::path copy = stage();
  store::write_text(copy / "part-00000.h5", "par");
  fs::create_directories(copy.string() + ".partial");
  store::write_text(copy.string() + ".partial/part-00000.h5", "p");
  EXPECT_EQ(stage(), copy);
  EXPECT_EQ(store::read_text(copy / "part-00000.h5"), "part 0");
  EXPECT_FALSE(fs::exists(copy.string() + ".partial"));
}

TEST_F(Staging, WhereCopyingFailsTheFolderIsRead) {
  store::write_text(folder_ / "file", "");
  setenv("LDMTUNE_SCRATCH", (folder_ / "file" / "below").c_str(), 1);
  EXPECT_EQ(stage(), data_);
  setenv("LDMTUNE_SCRATCH", scratch_.c_str(), 1);
  index_.parts.push_back({"part-00002.h5", "", 1});
  EXPECT_EQ(stage(), data_);
  EXPECT_FALSE(fs::exists(scratch_ / ("ldmtune-" + std::string(16, 'a'))));
}

TEST_F(Staging, ProcessesOfANodeWaitForOneCopy) {
  std::vector<pid_t> children;
  for (int child = 0; child < 4; ++child) {
    const pid_t pid = fork();
    if (pid == 0) _exit(store::read_text(stage() / "part-00001.h5") == "part 1" ? 0 : 1);
    children.push_back(pid);
  }
  for (const pid_t pid : children) {
    int status = -1;
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
    EXPECT_EQ(status, 0);
  }
}

}  // namespace
}  // namespace ldmtune::data
