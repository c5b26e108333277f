#include "model/weights.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "expect_error.h"

namespace ldmtune::model {
namespace {

Weights two_tensors(at::ScalarType dtype = at::kFloat) {
  return Weights({{"a.weight", at::ones({2, 3}, at::kHalf)}, {"a.bias", at::arange(2, at::kFloat)}}, "unet/", dtype);
}

TEST(Weights, HandsOutEachTensorInTheChosenType) {
  Weights weights = two_tensors(at::kBFloat16);
  EXPECT_TRUE(weights.contains("a.weight"));
  const at::Tensor taken = weights.take("a.weight", {2, 3});
  EXPECT_EQ(taken.scalar_type(), at::kBFloat16);
  EXPECT_TRUE(at::equal(taken, at::ones({2, 3}, at::kBFloat16)));
  EXPECT_FALSE(weights.contains("a.weight"));
  EXPECT_TRUE(weights.taken().at("a.weight").is_same(taken));
}

TEST(Weights, NamesAMissingTensorAndAWrongShape) {
  Weights weights = two_tensors();
  expect_input_error([&] { weights.take("b.weight", {4}); }, {"unet/", "\"b.weight\"", "[4]", "missing"});
  expect_input_error([&] { weights.take("a.weight", {3, 2}); }, {"unet/", "\"a.weight\"", "[2, 3]", "[3, 2]"});
}

TEST(Weights, ListsWhatNobodyTook) {
  Weights weights = two_tensors();
  weights.take("a.weight", {2, 3});
  expect_input_error([&] { weights.expect_all_taken(); }, {"unet/", "1 tensors", "\"a.bias\""});
  weights.take("a.bias", {2});
  weights.expect_all_taken();
}

TEST(Weights, RefusesToHandOutATensorTwice) {
  Weights weights = two_tensors();
  weights.take("a.bias", {2});
  EXPECT_THROW(weights.take("a.bias", {2}), Error);
}

TEST(Weights, AlignsWhatItHandsOut) {
  const at::Tensor storage = at::arange(9, at::kFloat);
  Weights weights({{"w", storage.narrow(0, 1, 8)}}, "file");
  const at::Tensor taken = weights.take("w", {8});
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(taken.const_data_ptr()) % 64, 0u);
  EXPECT_TRUE(at::equal(taken, storage.narrow(0, 1, 8)));
}

TEST(Weights, MakesTensorsOnDemand) {
  Weights weights([](const std::string&, at::IntArrayRef shape) { return at::ones(shape); }, "made");
  EXPECT_TRUE(at::equal(weights.take("anything", {2, 2}), at::ones({2, 2})));
  EXPECT_EQ(weights.taken().size(), 1u);
  weights.expect_all_taken();
}

}  // namespace
}  // namespace ldmtune::model
