// Tensor bytes, stop signals, packed hooks.

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <csignal>
#include <set>

#include "train/packed_hooks.h"
#include "train/signals.h"
#include "train/tensor_bytes.h"

namespace ldmtune::train {
namespace {

TEST(TensorBytes, RoundTripKeepsNamesTypesShapesAndBits) {
  const NamedTensors tensors{{"a", at::tensor({1.5, -2.0}, at::kDouble)},
                             {"scalar", at::scalar_tensor(7, at::kLong)},
                             {"empty", at::empty({0, 3}, at::kFloat)},
                             {"half", at::tensor({0.1, 0.2, 0.3}, at::kFloat).to(at::kHalf).reshape({3, 1})}};
  const NamedTensors back = unpack_tensors(pack_tensors(tensors));
  ASSERT_EQ(back.size(), tensors.size());
  for (std::size_t i = 0; i < back.size(); ++i) {
    EXPECT_EQ(back[i].first, tensors[i].first);
    EXPECT_EQ(back[i].second.scalar_type(), tensors[i].second.scalar_type());
    EXPECT_TRUE(at::equal(back[i].second, tensors[i].second)) << back[i].first;
  }
  EXPECT_TRUE(unpack_tensors("").empty());
}

TEST(StopSignals, AreRememberedAndOldHandlersComeBack) {
  struct sigaction before {
  }, after{};
  sigaction(SIGUSR2, nullptr, &before);
  {
    const StopSignals signals;
    EXPECT_EQ(StopSignals::received(), 0);
    std::raise(SIGUSR2);
    EXPECT_EQ(StopSignals::received(), SIGUSR2);
  }
  sigaction(SIGUSR2, nullptr, &after);
  EXPECT_EQ(before.sa_handler, after.sa_handler);
  const StopSignals again;
  EXPECT_EQ(StopSignals::received(), 0);
}

/// Adds a number to k and twice the number to v, and counts how many different text contexts it met.
class AddingHooks final : public model::ModelHooks {
 public:
  explicit AddingHooks(double number) : number_(number) {}
  model::KeyValueContext attention_context(const at::Tensor& context, const model::AttentionSite& site) override {
    if (site.is_cross) contexts_.insert(context.unsafeGetTensorImpl());
    return {context + number_, context + 2 * number_};
  }
  std::size_t contexts() const { return contexts_.size(); }

 private:
  double number_;
  std::set<const void*> contexts_;
};

TEST(PackedHooks, EachTrialSeesItsOwnRowsOnly) {
  auto one = std::make_unique<AddingHooks>(1), ten = std::make_unique<AddingHooks>(10);
  const AddingHooks* watched = ten.get();
  std::vector<TrialRows> trials;
  trials.push_back({0, 2, std::move(one)});
  trials.push_back({2, 3, std::move(ten)});
  const auto packed = pack_hooks(std::move(trials), 4);
  packed->begin_forward();
  const at::Tensor context = at::arange(4, at::kFloat).reshape({4, 1, 1});  // the last row is nobody's
  for (int layer = 0; layer < 3; ++layer) {
    const auto kv = packed->attention_context(context, {"attn2", layer, true});
    EXPECT_TRUE(at::equal(kv.key.flatten(), at::tensor({1.0, 2.0, 12.0, 3.0}, at::kFloat)));
    EXPECT_TRUE(at::equal(kv.value.flatten(), at::tensor({2.0, 3.0, 22.0, 3.0}, at::kFloat)));
  }
  EXPECT_EQ(watched->contexts(), 1u) << "the text context must be one tensor for all layers of a forward";
}

TEST(PackedHooks, OneTrialKeepsItsOwnHooks) {
  auto hooks = std::make_unique<AddingHooks>(1);
  const model::ModelHooks* raw = hooks.get();
  std::vector<TrialRows> trials;
  trials.push_back({0, 2, std::move(hooks)});
  EXPECT_EQ(pack_hooks(std::move(trials), 2).get(), raw);
}

}  // namespace
}  // namespace ldmtune::train
