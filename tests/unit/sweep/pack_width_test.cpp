#include "sweep/pack_width.h"

#include <limits>

#include "sweep/memory_room.h"
#include "sweep/plan.h"
#include "sweep_fixture.h"

namespace ldmtune::sweep {
namespace {

namespace fs = std::filesystem;

class PackWidthTest : public SweepTest {
 protected:
  Grid grid(std::vector<std::pair<std::string, std::string>> more = {}) {
    more.insert(more.begin(), {"base", (fs::path(LDMTUNE_SOURCE_DIR) / "datasets" / "emoji-base").string()});
    return expand_grid(settings(more));
  }
  void write(const std::string& name, const std::string& text) {
    fs::create_directories((root_ / name).parent_path());
    store::write_text(root_ / name, text);
  }
};

TEST_F(PackWidthTest, APackTakesTheBaseOnceAndEachTrialsRows) {
  const Grid planned = grid();
  const double one = pack_bytes(planned, 1, 1), two = pack_bytes(planned, 2, 1), four = pack_bytes(planned, 4, 1);
  EXPECT_GT(two, one);
  EXPECT_LT(two, 2 * one) << "the base is there once";
  EXPECT_NEAR(four - two, 2 * (two - one), 0.1 * (four - two));
  const double eight = pack_bytes(planned, 8, 1);
  EXPECT_GT(eight, four) << "empty places keep their rows";
  EXPECT_LT(eight - four, 2 * (four - two)) << "but hold no weights";
}

TEST_F(PackWidthTest, AMethodThatChangesTheBaseTrainsAlone) {
  const Grid planned = grid({{"method", "dreambooth"},
                             {"hypernetwork.layer_structure", "1,2,1"},
                             {"hypernetwork.layer_norm", "false"},
                             {"optim.learning_rate", "1e-4 | 1e-3"}});
  ASSERT_EQ(planned.trials.size(), 2u);
  EXPECT_EQ(pack_bytes(planned, 2, 1), pack_bytes(planned, 1, 1));
}

TEST_F(PackWidthTest, TheWidestPackIsTheLastOneThatFits) {
  const Grid planned = grid({{"optim.learning_rate", "1e-3 | 2e-3 | 3e-3"}});
  ASSERT_EQ(planned.trials.size(), 12u);
  EXPECT_EQ(widest_pack(planned, 1, std::numeric_limits<double>::max()), 8u);
  EXPECT_EQ(widest_pack(planned, 1, pack_bytes(planned, 3, 1)), 3u);
  EXPECT_EQ(widest_pack(planned, 1, pack_bytes(planned, 3, 1) - 1), 2u);
  EXPECT_EQ(widest_pack(planned, 1, 0), 1u);
  EXPECT_EQ(widest_pack(grid(), 1, std::numeric_limits<double>::max()), 4u) << "no more than there are trials";
}

TEST_F(PackWidthTest, AutoTakesTheWidthThatTheSweepWasBegunWith) {
  const Grid planned = grid();
  EXPECT_FALSE(recorded_width(planned));
  const std::size_t free = pack_width("auto", planned, 1, *comm_);
  EXPECT_GE(free, 1u);
  EXPECT_LE(free, 4u);
  write_plan(planned, 7);
  EXPECT_EQ(recorded_width(planned), 7u);
  EXPECT_EQ(pack_width("auto", planned, 1, *comm_), 7u);
  write_plan(planned);
  EXPECT_EQ(recorded_width(planned), 7u) << "what collects says nothing of packs";
  EXPECT_EQ(pack_width("3", planned, 1, *comm_), 3u);
}

TEST_F(PackWidthTest, OtherWidthsAreRefused) {
  for (const char* text : {"", "0", "1025", "-1", "2x", "many"}) {
    EXPECT_THROW(pack_width(text, grid(), 1, *comm_), InputError) << text;
  }
}

TEST_F(PackWidthTest, FreeMemoryIsTheMachinesWithoutALimit) {
  write("proc/meminfo", "MemTotal: 8000 kB\nMemFree: 1000 kB\nMemAvailable: 6000 kB\n");
  write("proc/self/cgroup", "0::/job/step\n");
  write("groups/job/step/memory.max", "max\n");
  const MemoryRoom room = room_of_host(root_ / "proc", root_ / "groups");
  EXPECT_EQ(room.what, "this machine");
  EXPECT_EQ(room.bytes, 8000 * 1024);
  EXPECT_EQ(room.free, 6000 * 1024);
}

TEST_F(PackWidthTest, AGroupAboveTheProcesssOwnLimitsItsMemory) {
  write("proc/meminfo", "MemTotal: 8000 kB\nMemAvailable: 6000 kB\n");
  write("proc/self/cgroup", "0::/job/step\n");
  write("groups/job/memory.max", "2048000\n");
  write("groups/job/memory.current", "1024000\n");
  write("groups/job/memory.stat", "anon 500000\ninactive_file 24000\n");
  const MemoryRoom room = room_of_host(root_ / "proc", root_ / "groups");
  EXPECT_EQ(room.what, "this job or container");
  EXPECT_EQ(room.bytes, 2048000);
  EXPECT_EQ(room.free, 2048000 - 1024000 + 24000);
}

TEST_F(PackWidthTest, GroupsOfTheFirstVersionLimitToo) {
  write("proc/meminfo", "MemTotal: 8000 kB\nMemAvailable: 600 kB\n");
  write("proc/self/cgroup", "5:cpuset:/\n4:memory:/slurm/job_7\n");
  write("groups/memory/memory.limit_in_bytes", "9223372036854771712\n");
  write("groups/memory/slurm/job_7/memory.limit_in_bytes", "4096000\n");
  write("groups/memory/slurm/job_7/memory.usage_in_bytes", "96000\n");
  const MemoryRoom room = room_of_host(root_ / "proc", root_ / "groups");
  EXPECT_EQ(room.bytes, 4096000);
  EXPECT_EQ(room.free, 600 * 1024) << "the machine itself has less";
}

}  // namespace
}  // namespace ldmtune::sweep
