// Datasets and pictures are the same for any number of ranks, and an error of one rank ends all alike.

#include <unistd.h>

#include <fstream>

#include "core/error.h"
#include "mpi_main.h"
#include "pipeline/collective.h"
#include "pipeline/encode.h"
#include "pipeline/generate_shared.h"
#include "store/files.h"
#include "store/image.h"

namespace ldmtune::pipeline {
namespace {

namespace fs = std::filesystem;

/// A folder that all ranks see, with images; rank 0 makes and removes it.
class SharedFolder : public testing::Test {
 protected:
  SharedFolder() : comm_(comm::world()) {
    folder_ = root_gives(*comm_, [] {
      std::string pattern = (fs::temp_directory_path() / "ldmtune-mpi-XXXXXX").string();
      return std::string(mkdtemp(pattern.data()));
    });
    run_together(*comm_, [&] {
      if (comm_->rank() != 0) return;
      fs::create_directory(folder_ / "images");
      for (int i = 0; i < 11; ++i) {
        const at::Tensor ramp = at::arange(40 * (36 + i) * 3).mul(i + 3).remainder(251).view({40, 36 + i, 3});
        store::write_png(folder_ / "images" / cat("cat ", char('a' + i), ".png"), ramp.to(at::kByte));
      }
    });
    config_.base = base_folder();
    config_.images = folder_ / "images";
    config_.resolution = 32;
    config_.batch_size = 2;
    config_.images_per_part = 5;
    config_.random_flip = true;
  }
  ~SharedFolder() override {
    comm_->barrier();
    if (comm_->rank() == 0) fs::remove_all(folder_);
  }
  static fs::path base_folder() {
    return fs::path(__FILE__).parent_path().parent_path().parent_path() / "datasets" / "emoji-base";
  }

  std::unique_ptr<comm::Communicator> comm_;
  fs::path folder_;
  PrepareConfig config_;
};

TEST_F(SharedFolder, DatasetHasTheSameBytesAsOneRanks) {
  config_.output = folder_ / "shared";
  const PrepareResult result = prepare_dataset(config_, *comm_);
  EXPECT_EQ(result.samples, 22u);
  run_together(*comm_, [&] {
    if (comm_->rank() != 0) return;
    config_.output = folder_ / "alone";
    prepare_dataset(config_, *comm::self());
  });
  const auto hashes = [&](const char* name) {
    std::map<std::string, std::string> all;
    for (const auto& entry : fs::directory_iterator(folder_ / name)) {
      all[entry.path().filename()] = store::sha256_file(entry.path());
    }
    return all;
  };
  EXPECT_EQ(hashes("shared").size(), 5u);  // three parts, captions, index
  EXPECT_EQ(hashes("shared"), hashes("alone"));
}

TEST_F(SharedFolder, AnErrorOfAnyRankEndsAllAndLeavesNothing) {
  run_together(*comm_, [&] {
    if (comm_->rank() == 0) std::ofstream(folder_ / "images" / "cat zz.png") << "no picture";  // the last rank's share
  });
  config_.output = folder_ / "deep" / "shared";
  try {
    prepare_dataset(config_, *comm_);
    FAIL() << "expected an InputError";
  } catch (const InputError& error) {
    EXPECT_NE(std::string(error.what()).find("cat zz.png"), std::string::npos) << error.what();
  }
  EXPECT_FALSE(fs::exists(folder_ / "deep"));
}

TEST_F(SharedFolder, TheLowestFailingRankIsNamed) {
  const int last = comm_->size() - 1;
  try {
    run_together(*comm_, [&] {
      if (comm_->rank() == last) fail_input("broken");
    });
    FAIL() << "expected an InputError";
  } catch (const InputError& error) {
    EXPECT_EQ(error.what(), last == 0 ? "broken" : cat("broken [rank ", last, "]"));
  }
}

TEST_F(SharedFolder, PicturesAreTheSameAsOneRanks) {
  const model::BaseModel base = model::load_base_model(base_folder());
  PromptEncoder prompts(base, 1);
  std::vector<SharedRequest> requests(5);
  for (std::size_t i = 0; i < requests.size(); ++i) {
    requests[i].request.prompt = i % 2 ? "rocket" : "apple";
    requests[i].request.index = i;
    requests[i].request.num_inference_steps = 2;
  }
  const auto shared = generate_shared(base, prompts, requests, *comm_);
  ASSERT_EQ(shared.size(), comm_->rank() == 0 ? requests.size() : 0u);
  for (std::size_t i = 0; i < shared.size(); ++i) {
    const GenerateResult alone = generate(base, prompts, requests[i].request);
    EXPECT_TRUE(at::equal(shared[i].image, alone.image)) << i;
    EXPECT_TRUE(at::equal(shared[i].final_latent, alone.final_latent)) << i;
    EXPECT_TRUE(at::equal(shared[i].initial_noise, alone.initial_noise)) << i;
    EXPECT_TRUE(at::equal(shared[i].context, alone.context)) << i;
  }
}

}  // namespace
}  // namespace ldmtune::pipeline

int main(int argc, char** argv) {
  ldmtune::comm::Runtime runtime(argc, argv);
  return ldmtune::testing_mpi::run_mpi_tests(argc, argv);
}
