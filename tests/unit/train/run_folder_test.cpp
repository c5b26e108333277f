#include "train/run_folder.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <ctime>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/error.h"
#include "store/files.h"

namespace ldmtune::train {
namespace {

class RunLockTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / ("ldmtune-lock-" + std::to_string(getpid()));
    std::filesystem::create_directories(folder_);
    unsetenv("SLURM_JOB_ID");
    unsetenv("SLURM_ARRAY_TASK_ID");
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  void write_lock(const std::string& host, pid_t pid, std::int64_t age_seconds, const std::string& job = "") {
    store::write_json(folder_ / "lock.json",
                      {{"host", host},
                       {"pid", pid},
                       {"slurm_job", job},
                       {"slurm_array_task", ""},
                       {"heartbeat", static_cast<std::int64_t>(std::time(nullptr)) - age_seconds}});
  }
  std::filesystem::path folder_;
};

std::string this_host() {
  char name[256] = "";
  gethostname(name, sizeof name - 1);
  return name;
}

TEST_F(RunLockTest, IsRemovedAtTheEnd) {
  {
    const RunLock lock(folder_);
    EXPECT_TRUE(std::filesystem::exists(folder_ / "lock.json"));
  }
  EXPECT_FALSE(std::filesystem::exists(folder_ / "lock.json"));
}

TEST_F(RunLockTest, ALivingHolderOnAnotherHostIsRespected) {
  write_lock("node017", 4242, 5);
  try {
    const RunLock lock(folder_);
    FAIL() << "took a held lock";
  } catch (const InputError& error) {
    EXPECT_NE(std::string(error.what()).find("node017"), std::string::npos) << error.what();
  }
}

TEST_F(RunLockTest, ALivingProcessOnThisHostIsRespected) {
  const pid_t child = fork();
  if (child == 0) {
    pause();
    _exit(0);
  }
  write_lock(this_host(), child, 5);
  EXPECT_THROW(RunLock{folder_}, InputError);
  kill(child, SIGKILL);
  siginfo_t ended;
  waitid(P_PID, static_cast<id_t>(child), &ended, WEXITED | WNOWAIT);
  EXPECT_NO_THROW(RunLock{folder_}) << "a zombie holds nothing";
  waitpid(child, nullptr, 0);
}

TEST_F(RunLockTest, AStaleHeartbeatIsTakenOver) {
  write_lock("node017", 4242, 3600);
  EXPECT_NO_THROW(RunLock{folder_});
}

TEST_F(RunLockTest, TheSameSlurmJobTakesOver) {
  write_lock("node017", 4242, 5, "991");
  setenv("SLURM_JOB_ID", "992", 1);
  EXPECT_THROW(RunLock{folder_}, InputError);
  setenv("SLURM_JOB_ID", "991", 1);
  EXPECT_NO_THROW(RunLock{folder_});
  unsetenv("SLURM_JOB_ID");
}

TEST_F(RunLockTest, WhoeverWasTakenOverNoticesAndLeavesTheNewLockAlone) {
  setenv("SLURM_JOB_ID", "4711", 1);
  std::optional<RunLock> of_lost_node(std::in_place, folder_);
  EXPECT_FALSE(of_lost_node->is_lost());
  EXPECT_TRUE(of_lost_node->beat());
  const RunLock of_requeued_job(folder_);
  EXPECT_TRUE(of_lost_node->is_lost());
  EXPECT_FALSE(of_requeued_job.is_lost());
  of_lost_node.reset();
  EXPECT_TRUE(std::filesystem::exists(folder_ / "lock.json"));
}

TEST_F(RunLockTest, AHeartbeatThatIsDueTellsWhoWasTakenOver) {
  RunLock lock(folder_, std::chrono::seconds(0));
  EXPECT_TRUE(lock.beat());
  write_lock("node017", 4242, 0);
  EXPECT_FALSE(lock.beat());
  EXPECT_EQ(store::read_json(folder_ / "lock.json").at("host"), "node017");
}

TEST_F(RunLockTest, AMissingOrTornFileIsWrittenAgain) {
  RunLock lock(folder_, std::chrono::seconds(0));
  std::filesystem::remove(folder_ / "lock.json");
  EXPECT_TRUE(lock.beat());
  store::write_text(folder_ / "lock.json", "{\"host\": ");
  EXPECT_TRUE(lock.beat());
  EXPECT_EQ(store::read_json(folder_ / "lock.json").at("host"), this_host());
}

TEST_F(RunLockTest, ATornLockNamesNobody) {
  store::write_text(folder_ / "lock.json", "{\"host\": \"nod");
  EXPECT_NO_THROW(RunLock{folder_});
}

TEST(RunFolder, CheckpointNames) {
  EXPECT_EQ(checkpoint_folder("runs/a", 300), std::filesystem::path("runs/a/checkpoints/step-00000300"));
}

}  // namespace
}  // namespace ldmtune::train
