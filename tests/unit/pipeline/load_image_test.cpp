#include "pipeline/encode.h"
#include "pipeline_fixture.h"

namespace ldmtune::pipeline {
namespace {

using LoadAndCrop = PipelineTest;

TEST_F(LoadAndCrop, KeepsTheValuesOfAFittingPicture) {
  const at::Tensor pixels = picture(8, 8, 1);
  store::write_png(folder_ / "a.png", pixels);
  const PreparedImage image = load_and_crop(folder_ / "a.png", 8);
  ASSERT_EQ(image.pixels.sizes(), (std::vector<std::int64_t>{3, 8, 8}));
  EXPECT_EQ(image.pixels.scalar_type(), at::kFloat);
  const at::Tensor back = image.pixels.permute({1, 2, 0}).add(1).mul(127.5);
  EXPECT_LT((back - pixels.to(at::kFloat)).abs().max().item<float>(), 1e-4);
  EXPECT_EQ(image.original_size, (std::array<std::int32_t, 2>{8, 8}));
  EXPECT_EQ(image.crop, (std::array<std::int32_t, 4>{0, 0, 8, 8}));
}

TEST_F(LoadAndCrop, CutsTheCentreOfAWidePicture) {
  at::Tensor pixels = at::zeros({4, 10, 3}, at::kByte);
  pixels.narrow(1, 3, 4).fill_(255);  // white exactly where the centre square lies
  store::write_png(folder_ / "wide.png", pixels);
  const PreparedImage image = load_and_crop(folder_ / "wide.png", 4);
  EXPECT_EQ(image.crop, (std::array<std::int32_t, 4>{3, 0, 4, 4}));
  EXPECT_EQ(image.original_size, (std::array<std::int32_t, 2>{10, 4}));
  EXPECT_EQ(image.pixels.min().item<float>(), 1.0f);
}

TEST_F(LoadAndCrop, ResizesTheShorterSideWithAntialiasing) {
  // One-pixel stripes become even grey where antialiased, and would alias to black or white otherwise.
  at::Tensor pixels = at::zeros({64, 96, 3}, at::kByte);
  pixels.slice(1, 0, 96, 2).fill_(255);
  store::write_png(folder_ / "stripes.png", pixels);
  const PreparedImage image = load_and_crop(folder_ / "stripes.png", 16);
  ASSERT_EQ(image.pixels.sizes(), (std::vector<std::int64_t>{3, 16, 16}));
  EXPECT_EQ(image.crop, (std::array<std::int32_t, 4>{4, 0, 16, 16}));  // of 24x16
  EXPECT_LT(image.pixels.abs().max().item<float>(), 0.1f);
}

TEST_F(LoadAndCrop, EnlargesASmallPicture) {
  write_picture("small.png", 5, 3, 2);
  const PreparedImage image = load_and_crop(folder_ / "small.png", 12);
  ASSERT_EQ(image.pixels.sizes(), (std::vector<std::int64_t>{3, 12, 12}));
  EXPECT_EQ(image.crop, (std::array<std::int32_t, 4>{0, 4, 12, 12}));  // of 12x20
  EXPECT_LE(image.pixels.abs().max().item<float>(), 1.0f);
}

TEST_F(LoadAndCrop, NamesWhatCannotBeUsed) {
  write_file("broken.png", "not a picture");
  EXPECT_TRUE(contains(input_error([&] { load_and_crop(folder_ / "broken.png", 8); }), "broken.png"));
  write_picture("line.png", 1, 3000, 0);
  EXPECT_TRUE(contains(input_error([&] { load_and_crop(folder_ / "line.png", 64); }), "too narrow"));
}

}  // namespace
}  // namespace ldmtune::pipeline
