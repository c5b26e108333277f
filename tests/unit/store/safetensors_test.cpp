#include "store/safetensors.h"

#include <nlohmann/json.hpp>

#include "store/files.h"
#include "test_support.h"

namespace ldmtune::store {
namespace {

std::string safetensors_bytes(const std::string& header, const std::string& data) {
  return little_endian(header.size(), 8) + header + data;
}

/// Writes the bytes and expects them refused with `expected` in the message, header-only and whole.
void expect_refused(const std::string& bytes, const std::string& expected) {
  SCOPED_TRACE(expected);
  const TemporaryFolder folder;
  write_bytes(folder / "bad.safetensors", bytes);
  expect_input_error([&] { read_safetensors(folder / "bad.safetensors"); }, expected, "bad.safetensors");
  expect_input_error([&] { read_safetensors_header(folder / "bad.safetensors"); }, expected, "bad.safetensors");
}

void expect_header_refused(const std::string& header, const std::string& expected, std::size_t data = 4) {
  expect_refused(safetensors_bytes(header, std::string(data, '\0')), expected);
}

bool bitwise_equal(const at::Tensor& a, const at::Tensor& b) {
  const auto bytes = [](const at::Tensor& tensor) {
    const at::Tensor plain = tensor.contiguous();
    return std::string(static_cast<const char*>(plain.const_data_ptr()), plain.nbytes());
  };
  return a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes() && (a.numel() == 0 || bytes(a) == bytes(b));
}

TEST(Safetensors, RoundTripsEveryDtypeBitwise) {
  const TemporaryFolder folder;
  TensorMap tensors;
  for (const at::ScalarType dtype : {at::kFloat, at::kHalf, at::kBFloat16, at::kDouble, at::kLong, at::kInt, at::kShort,
                                     at::kChar, at::kByte, at::kBool}) {
    tensors[c10::toString(dtype)] = (at::randn({3, 4}) * 20).to(dtype);
  }
  tensors["scalar"] = at::scalar_tensor(1.5);
  tensors["empty"] = at::empty({0, 4});
  tensors["transposed"] = at::arange(6, at::kFloat).reshape({2, 3}).t();
  tensors["nan"] = at::full({2}, std::nan(""));
  const Metadata metadata{{"format", "pt"}, {"ünïcode", "\"quoted\" \n line"}};
  write_safetensors(folder / "a.safetensors", tensors, metadata);
  const SafetensorsFile read = read_safetensors(folder / "a.safetensors");
  ASSERT_EQ(read.tensors.size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    EXPECT_TRUE(bitwise_equal(tensor, read.tensors.at(name))) << name;
    EXPECT_TRUE(read.tensors.at(name).is_contiguous());
  }
  EXPECT_EQ(read.metadata, metadata);
}

TEST(Safetensors, SameTensorsGiveTheSameBytesLargestAlignmentFirst) {
  const TemporaryFolder folder;
  const TensorMap tensors{
      {"a", at::ones({2}, at::kHalf)}, {"b", at::ones({3}, at::kFloat)}, {"c", at::ones({1}, at::kLong)}};
  write_safetensors(folder / "a", tensors);
  write_safetensors(folder / "b", tensors);
  EXPECT_EQ(read_bytes(folder / "a"), read_bytes(folder / "b"));
  const std::string bytes = read_bytes(folder / "a");
  const std::string start = R"({"c":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},"b":{"dtype":"F32")";
  EXPECT_EQ(bytes.substr(8, start.size()), start);
  EXPECT_EQ((static_cast<unsigned char>(bytes[0]) + 8) % 8, 0);
}

TEST(Safetensors, HeaderGivesNamesTypesAndShapes) {
  const TemporaryFolder folder;
  write_safetensors(folder / "a", {{"x", at::ones({2, 3}, at::kHalf)}}, {{"k", "v"}});
  Metadata metadata;
  const auto infos = read_safetensors_header(folder / "a", &metadata);
  ASSERT_EQ(infos.size(), 1u);
  EXPECT_EQ(infos[0].name, "x");
  EXPECT_EQ(infos[0].dtype, at::kHalf);
  EXPECT_EQ(infos[0].shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(metadata.at("k"), "v");
}

TEST(Safetensors, AcceptsPaddingAndAnyOrderOfKeys) {
  const TemporaryFolder folder;
  write_bytes(folder / "a",
              safetensors_bytes(R"({"t":{"data_offsets":[0,4],"shape":[],"dtype":"F32"}}   )", std::string(4, '\0')));
  EXPECT_EQ(read_safetensors(folder / "a").tensors.at("t").item<float>(), 0.0f);
}

TEST(SafetensorsBadInput, LengthsThatDoNotFit) {
  expect_refused("1234567", "7 bytes");
  expect_refused("", "0 bytes");
  expect_refused(little_endian(0, 8), "starts with '{'");
  expect_refused(little_endian(100, 8) + "{}", "length of 100");
  expect_refused(little_endian(UINT64_MAX, 8) + "{}", "length of 18446744073709551615");
  expect_refused(little_endian(100'000'001, 8) + "{}", "length of 100000001");
}

TEST(SafetensorsBadInput, HeadersThatAreNoStrictJson) {
  expect_header_refused("not json", "starts with '{'");
  expect_header_refused(R"( {"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", "starts with '{'");
  expect_header_refused("{\"t\xff\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", "JSON header");
  expect_header_refused(R"({"t":{"dtype":"F32","shape":[1],)", "JSON header");
  expect_header_refused(R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}} x)", "JSON header");
  std::string deep = "{\"t\":";
  for (int i = 0; i < 100'000; ++i) deep += "{\"a\":";
  expect_header_refused(deep, "found an object");
  expect_header_refused("{\"t\":{\"shape\":" + std::string(100'000, '['), "found an array");
}

TEST(SafetensorsBadInput, EntriesOfAnotherShape) {
  expect_header_refused(
      R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
      "twice");
  expect_header_refused(R"({"t":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}})", "twice");
  expect_header_refused(R"({"t":{"dtype":"F32","shape":[1]}})", "exactly dtype");
  expect_header_refused(R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"more":"x"}})", "expected");
  expect_header_refused(R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}})", "exactly dtype");
  expect_header_refused(R"({"t":{"dtype":"F32","shape":[[1]],"data_offsets":[0,4]}})", "found an array");
  expect_header_refused(R"({"t":{"dtype":"F32","shape":1,"data_offsets":[0,4]}})", "found a number");
  expect_header_refused(R"({"t":[0]})", "found an array");
  expect_header_refused(R"({"t":null})", "found null");
  expect_header_refused(R"({"t":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}})", "found 'F99'");
  expect_header_refused(R"({"t":{"dtype":7,"shape":[1],"data_offsets":[0,4]}})", "found a number");
}

TEST(SafetensorsBadInput, Offsets) {
  const auto with = [](const std::string& offsets) {
    return R"({"t":{"dtype":"F32","shape":[1],"data_offsets":)" + offsets + "}}";
  };
  expect_header_refused(with("[4,0]"), "in order");
  expect_header_refused(with("[-4,0]"), "a negative number");
  expect_header_refused(with("[0,4.0]"), "no 64-bit integer");
  expect_header_refused(with("[0,18446744073709551616]"), "no 64-bit integer");
  expect_header_refused(with("[0,8]"), "expected 4 bytes");
  expect_header_refused(with("[4,8]"), "start at 0", 8);
  expect_header_refused(with("[0,4]"), "cut short", 3);
  expect_header_refused(with("[0,4]"), "foreign bytes", 5);
  expect_header_refused(
      R"({"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"t":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}})",
      "multiple of its element size", 5);
}

TEST(SafetensorsBadInput, ShapesThatWrapAround) {
  expect_header_refused(R"({"t":{"dtype":"F32","shape":[4194305,4194305,211106198978564],"data_offsets":[0,16]}})",
                        "over 2^64", 16);
  expect_header_refused(R"({"t":{"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,4]}})", "below 2^63");
  expect_header_refused(
      R"({"t":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}})",
      "at most 64");
}

TEST(SafetensorsBadInput, OverlapsAndHoles) {
  const std::string tail = R"("dtype":"F32","shape":[1],"data_offsets":)";
  expect_header_refused("{\"a\":{" + tail + "[0,4]},\"b\":{" + tail + "[0,4]}}", "an overlap");
  expect_header_refused("{\"a\":{" + tail + "[0,4]},\"b\":{" + tail + "[8,12]}}", "a hole", 12);
  expect_header_refused(
      R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"z":{"dtype":"F32","shape":[0],"data_offsets":[4,4]}})",
      "an overlap", 8);
  std::string many = "{";
  for (int i = 0; i < 100'000; ++i) many += (i ? ",\"" : "\"") + std::to_string(i) + "\":{" + tail + "[0,4]}";
  expect_header_refused(many + "}", "an overlap");
}

TEST(SafetensorsBadInput, NamesAndMetadata) {
  const std::string tail = R"(":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
  expect_header_refused(R"({"a\u0000b)" + tail, "control characters");
  expect_header_refused(R"({"../a)" + tail, "'../'");
  expect_header_refused("{\"" + std::string(1 << 20, 'n') + tail, "at most 4096 bytes");
  expect_header_refused(R"({"__metadata__":{"a":1}})", "found a number", 0);
  expect_header_refused(R"({"__metadata__":{"a":{}}})", "found an object", 0);
  expect_header_refused(R"({"__metadata__":"x"})", "found a string", 0);
}

TEST(SafetensorsBadInput, BooleansOtherThanZeroAndOne) {
  const TemporaryFolder folder;
  write_bytes(folder / "a",
              safetensors_bytes(R"({"t":{"dtype":"BOOL","shape":[2],"data_offsets":[0,2]}})", "\x01\x02"));
  expect_input_error([&] { read_safetensors(folder / "a"); }, "booleans");
}

TEST(SafetensorsBadInput, EveryCutIsNoticed) {
  const TemporaryFolder folder;
  write_safetensors(folder / "a", {{"x", at::ones({5})}, {"y", at::ones({3}, at::kHalf)}});
  const std::string whole = read_bytes(folder / "a");
  for (std::size_t size = 0; size < whole.size(); ++size) {
    write_bytes(folder / "cut", whole.substr(0, size));
    EXPECT_THROW(read_safetensors(folder / "cut"), InputError) << size;
  }
}

TEST(CheckFinite, NamesTheTensor) {
  check_finite({{"a", at::ones({2})}, {"i", at::ones({2}, at::kLong)}}, "w.safetensors");
  at::Tensor bad = at::ones({3}, at::kHalf);
  bad[1] = std::numeric_limits<double>::infinity();
  expect_input_error(
      [&] {
        check_finite({{"a", at::ones({2})}, {"b", bad}}, "w.safetensors");
      },
      "'b'", "w.safetensors");
}

/// Two shards and their index under the given names.
void write_shards(const TemporaryFolder& folder, const std::string& index, const std::string& first,
                  const std::string& second) {
  write_safetensors(folder / first, {{"a", at::ones({1})}});
  write_safetensors(folder / second, {{"b", at::zeros({1})}});
  write_json(folder / index, {{"metadata", {{"total_size", 8}}}, {"weight_map", {{"a", first}, {"b", second}}}});
}

TEST(ShardedSafetensors, ReadsSingleFilesOfAVariantElseThePlainOne) {
  const TemporaryFolder folder;
  write_safetensors(folder / "model.safetensors", {{"a", at::zeros({1})}});
  write_safetensors(folder / "model.fp16.safetensors", {{"a", at::ones({1}, at::kHalf)}});
  EXPECT_EQ(read_sharded_safetensors(folder.path(), "model", "").at("a").scalar_type(), at::kFloat);
  EXPECT_EQ(read_sharded_safetensors(folder.path(), "model", "fp16").at("a").scalar_type(), at::kHalf);
  EXPECT_EQ(read_sharded_safetensors(folder.path(), "model", "bf16").at("a").scalar_type(), at::kFloat);
}

TEST(ShardedSafetensors, ReadsShardsUnderEachNameTheLibrariesUse) {
  for (const char* index :
       {"m.safetensors.index.fp16.json", "m.fp16.safetensors.index.json", "m.safetensors.fp16.index.json"}) {
    const TemporaryFolder folder;
    write_shards(folder, index, "m.fp16-00001-of-00002.safetensors", "m.fp16-00002-of-00002.safetensors");
    EXPECT_EQ(read_sharded_safetensors(folder.path(), "m", "fp16").size(), 2u) << index;
  }
  const TemporaryFolder folder;
  write_shards(folder, "m.safetensors.index.json", "m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors");
  EXPECT_EQ(read_sharded_safetensors(folder.path(), "m", "").at("a").item<float>(), 1.0f);
}

TEST(ShardedSafetensors, RefusesWhatDoesNotFitTogether) {
  const TemporaryFolder folder;
  expect_input_error([&] { read_sharded_safetensors(folder.path(), "m", ""); }, "no weights", "m.safetensors");
  write_safetensors(folder / "m.fp16.safetensors", {{"a", at::ones({1})}});
  expect_input_error([&] { read_sharded_safetensors(folder.path(), "m", ""); }, "m.fp16.safetensors");
  expect_input_error([&] { read_sharded_safetensors(folder / "no", "m", ""); }, "no folder");
  const std::string index = "s.safetensors.index.json";
  write_shards(folder, index, "s-1.safetensors", "s-2.safetensors");
  write_json(folder / index, {{"weight_map", {{"a", "s-1.safetensors"}, {"c", "s-2.safetensors"}}}});
  expect_input_error([&] { read_sharded_safetensors(folder.path(), "s", ""); }, "'c'", "s-2.safetensors");
  write_json(folder / index, {{"weight_map", {{"a", "../s-1.safetensors"}}}});
  expect_input_error([&] { read_sharded_safetensors(folder.path(), "s", ""); }, "own folder", index);
  write_json(folder / index, {{"weight_map", {"a"}}});
  expect_input_error([&] { read_sharded_safetensors(folder.path(), "s", ""); }, "weight_map", index);
}

}  // namespace
}  // namespace ldmtune::store
