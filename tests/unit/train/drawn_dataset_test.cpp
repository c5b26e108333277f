#include "train/drawn_dataset.h"

#include <unistd.h>

#include <ctime>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "train/drawing_lock.h"
#include "training_fixture.h"

namespace ldmtune::train {
namespace {

namespace fs = std::filesystem;

class DrawnDatasetTest : public TrainingTest {
 protected:
  void SetUp() override {
    TrainingTest::SetUp();
    config.sample.num_inference_steps = 2;
    drawn.what = "class images";
    drawn.folder_option = "dreambooth.class_data";
    drawn.prompts_option = "dreambooth.class_prompt";
    drawn.count_option = "dreambooth.num_class_images";
    drawn.folder = folder / ("drawn-" + std::to_string(count++));
    drawn.prompts = {"rocket", "cat face"};
    drawn.count = 3;
    drawn.base_sha256 = base->sha256;
    drawn.file_stem = "class";
  }
  std::unique_ptr<data::LatentDataset> open() { return open_or_draw(drawn, config, *base, *comm); }
  std::string refusal() {
    try {
      open();
    } catch (const InputError& error) {
      return error.what();
    }
    return "";
  }

  static std::size_t validation_rows(const data::LatentDataset& dataset) {
    std::size_t rows = 0;
    for (const auto& bucket : dataset.by_bucket(store::Split::validation)) rows += bucket.size();
    return rows;
  }

  static inline int count = 0;
  DrawnDataset drawn;
};

TEST_F(DrawnDatasetTest, DrawsWhatIsNotThereAndFindsItAgain) {
  const auto first = open();
  ASSERT_EQ(first->size(), 3u);
  EXPECT_EQ(first->caption(0), "rocket");
  EXPECT_EQ(first->caption(1), "cat face");
  EXPECT_TRUE(fs::exists(drawn.folder.string() + ".images/class-000002.png"));
  EXPECT_FALSE(fs::exists(drawn.folder.string() + ".images/lock.json"));
  fs::remove_all(drawn.folder.string() + ".images");
  EXPECT_EQ(open()->sha256(), first->sha256());  // not drawn again
  EXPECT_FALSE(fs::exists(drawn.folder.string() + ".images"));
}

TEST_F(DrawnDatasetTest, OneSplitAndOtherNoise) {
  const auto class_images = open();
  drawn.folder += "-adjacent";
  drawn.split = "validation";
  const auto same_noise = open();
  drawn.folder += "-other";
  drawn.first_index = 1 << 20;
  const auto other_noise = open();
  EXPECT_EQ(validation_rows(*same_noise), 3u);
  EXPECT_EQ(same_noise->record(0).image_sha256, class_images->record(0).image_sha256);
  EXPECT_NE(other_noise->record(0).image_sha256, class_images->record(0).image_sha256);
}

TEST_F(DrawnDatasetTest, WhatDoesNotFitIsRefused) {
  open();
  drawn.count = 4;
  EXPECT_NE(refusal().find("dreambooth.num_class_images: expected at least 4"), std::string::npos) << refusal();
  drawn.count = 3;
  drawn.prompts = {"rocket"};
  EXPECT_NE(refusal().find("dreambooth.class_prompt"), std::string::npos);
  drawn.prompts.clear();
  EXPECT_EQ(refusal(), "");  // with their own captions
  drawn.folder += "-nowhere";
  EXPECT_NE(refusal().find("nothing to draw"), std::string::npos);
  EXPECT_FALSE(fs::exists(drawn.folder.string() + ".images"));
}

TEST_F(DrawnDatasetTest, WhatAnotherBaseDrewIsRefusedUnlessItIsADatasetLikeAnother) {
  open();
  drawn.base_sha256 = std::string(64, 'f');
  const std::string message = refusal();
  for (const std::string& part : {drawn.folder.string(), base->sha256.substr(0, 12) + ")",
                                  std::string("(ffffffffffff)"), std::string("leave dreambooth.class_prompt empty")}) {
    EXPECT_NE(message.find(part), std::string::npos) << message;
  }
  drawn.prompts.clear();
  EXPECT_EQ(refusal(), "");
}

TEST_F(DrawnDatasetTest, PromptsMayComeFromAFile) {
  EXPECT_EQ(listed_prompts({"a", "b"}, "o"), (std::vector<std::string>{"a", "b"}));
  const fs::path file = folder / "prompts.txt";
  store::write_text(file, "a red fox\n\n  a lighthouse \n");
  EXPECT_EQ(listed_prompts({file.string()}, "o"), (std::vector<std::string>{"a red fox", "a lighthouse"}));
  store::write_text(file, "\n");
  EXPECT_THROW(listed_prompts({file.string()}, "o"), InputError);
}

TEST_F(DrawnDatasetTest, OneRunDrawsAndTheOthersWait) {
  fs::create_directories(drawn.folder);
  {
    EXPECT_TRUE(DrawingLock(drawn.folder, [] { return false; }).is_held());
  }
  char host[256] = "";
  gethostname(host, sizeof host - 1);
  store::write_json(drawn.folder / "lock.json", {{"host", host},
                                                 {"pid", getppid()},
                                                 {"token", "another run"},
                                                 {"heartbeat", static_cast<std::int64_t>(std::time(nullptr))}});
  int looks = 0;
  const DrawingLock waited(drawn.folder, [&] { return ++looks > 1; });
  EXPECT_FALSE(waited.is_held());
  EXPECT_EQ(looks, 2);
  EXPECT_EQ(store::read_json(drawn.folder / "lock.json").at("token"), "another run");
}

}  // namespace
}  // namespace ldmtune::train
