#include <gtest/gtest.h>

#include <cstdlib>
#include <map>

#include "comm/communicator.h"
#include "comm/transports.h"

namespace ldmtune::comm {
namespace {

TEST(SelfCommunicator, CollectivesAreTheIdentity) {
  const auto comm = self();
  EXPECT_EQ(comm->rank(), 0);
  EXPECT_EQ(comm->size(), 1);
  EXPECT_EQ(comm->local_size(), 1);
  EXPECT_TRUE(comm->accepts_device_buffers());
  std::vector<float> data{1, 2, 3};
  comm->reduce_scatter(data, add_on_host);
  comm->all_gather(data);
  EXPECT_EQ(data, (std::vector<float>{1, 2, 3}));
  EXPECT_EQ(comm->all_gather(std::vector<double>{4, 5}), (std::vector<double>{4, 5}));
  EXPECT_EQ(comm->all_gather(std::string("bytes")), std::vector<std::string>{"bytes"});
  EXPECT_EQ(comm->broadcast("text", 0), "text");
  EXPECT_TRUE(comm->any(true));
  EXPECT_FALSE(comm->any(false));
}

TEST(SelfCommunicator, AbortEndsTheProgramWithTheCode) {
  EXPECT_EXIT(self()->abort(3), testing::ExitedWithCode(3), "");
}

int world_size_with(const std::map<std::string, std::string>& variables) {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK", "SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS"})
    unsetenv(name);
  for (const auto& [name, value] : variables) setenv(name.c_str(), value.c_str(), 1);
  int argc = 1;
  char name[] = "program";
  char* arguments[] = {name, nullptr};
  char** argv = arguments;
  const Runtime runtime(argc, argv);
  EXPECT_FALSE(mpi_is_running());
  EXPECT_EQ(world(true)->size(), world()->size());
  return world()->size();
}

TEST(Runtime, WithoutALauncherIsAWorldOfOne) { EXPECT_EQ(world_size_with({}), 1); }

TEST(Runtime, InsideASlurmBatchScriptIsAWorldOfOne) {
  EXPECT_EQ(world_size_with(
                {{"SLURM_JOB_ID", "7"}, {"SLURM_NTASKS", "4"}, {"SLURM_STEP_NUM_TASKS", "1"}, {"SLURM_STEP_ID", "0"}}),
            1);
}

}  // namespace
}  // namespace ldmtune::comm
