#include "pipeline/collective.h"

#include <gtest/gtest.h>

#include <stdexcept>

#include "core/error.h"
#include "pipeline/bytes.h"

namespace ldmtune::pipeline {
namespace {

TEST(Collective, GivesBytesBack) {
  const auto comm = comm::self();
  const std::string bytes("a\0b", 3);
  EXPECT_EQ(gather_together(*comm, [&] { return bytes; }), std::vector{bytes});
  EXPECT_EQ(root_gives(*comm, [&] { return bytes; }), bytes);
}

TEST(Collective, KeepsKindAndTextOfAnError) {
  const auto comm = comm::self();
  try {
    run_together(*comm, [] { fail_input("option x: wrong"); });
    FAIL() << "expected an error";
  } catch (const InputError& error) {
    EXPECT_STREQ(error.what(), "option x: wrong");
    EXPECT_EQ(error.code(), ExitCode::bad_input);
  }
  try {
    run_together(*comm, [] { throw std::runtime_error("disk full"); });
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "disk full");
    EXPECT_EQ(error.code(), ExitCode::failed);
  }
}

TEST(Collective, LeavesOutBacktraces) {
  const auto comm = comm::self();
  try {
    run_together(*comm, [] { at::zeros({2}).view({3}); });
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()).find("frame #"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("shape"), std::string::npos) << error.what();
  }
}

TEST(Bytes, TensorsComeBackInOrder) {
  const at::Tensor a = at::arange(6, at::kFloat).view({2, 3}).t();  // not contiguous
  const at::Tensor b = at::arange(4, at::kHalf);
  std::string bytes;
  append_bytes(bytes, a);
  append_bytes(bytes, b);
  EXPECT_EQ(bytes.size(), 6u * 4 + 4u * 2);
  ByteReader reader(bytes);
  EXPECT_TRUE(at::equal(reader.take({3, 2}, at::kFloat), a));
  EXPECT_TRUE(at::equal(reader.take({4}, at::kHalf), b));
  EXPECT_TRUE(reader.empty());
  EXPECT_THROW(reader.take({1}, at::kByte), Error);
}

}  // namespace
}  // namespace ldmtune::pipeline
