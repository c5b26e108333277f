#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <limits>

#include "adapt/textual_inversion_file.h"
#include "core/error.h"
#include "small_network.h"
#include "store/files.h"
#include "store/safetensors.h"
#include "store/torch_file.h"

namespace ldmtune::adapt {
namespace {

using store::PyDict;
using store::PyValue;

class EmbeddingFileTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / ("ldmtune-embedding-" + std::to_string(getpid()));
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::filesystem::path path(const std::string& name) const { return folder_ / name; }
  std::filesystem::path write(const std::string& name, const PyValue& value) const {
    store::write_torch_file(path(name), value);
    return path(name);
  }
  std::filesystem::path write(const std::string& name, const store::TensorMap& tensors) const {
    store::write_safetensors(path(name), tensors);
    return path(name);
  }
  /// The message with which a file is refused.
  static std::string refusal(const std::filesystem::path& file) {
    try {
      read_embeddings(file);
    } catch (const InputError& error) {
      EXPECT_NE(std::string(error.what()).find(file.string()), std::string::npos) << error.what();
      return error.what();
    }
    return "no error";
  }

  std::filesystem::path folder_;
};

PyDict dict(std::initializer_list<std::pair<const char*, PyValue>> items) {
  PyDict result;
  for (const auto& [key, value] : items) result.items.emplace_back(key, value);
  return result;
}

Embedding sample(at::ScalarType type = at::kFloat) {
  return {"<zorp>", normals({3, 8}, 7).to(type), {}, 250, "0123456789", "base"};
}

void expect_same(const Embedding& a, const Embedding& b) {
  EXPECT_EQ(a.token, b.token);
  EXPECT_EQ(a.vectors.scalar_type(), b.vectors.scalar_type());
  EXPECT_TRUE(at::equal(a.vectors, b.vectors));
}

TEST_F(EmbeddingFileTest, RoundTripsAreExact) {
  for (const at::ScalarType type : {at::kFloat, at::kHalf, at::kBFloat16}) {
    const Embedding embedding = sample(type);
    for (const auto& [format, name] : {std::pair{EmbeddingFormat::a1111, "<zorp>.pt"},
                                       {EmbeddingFormat::diffusers, "learned_embeds.safetensors"},
                                       {EmbeddingFormat::kohya, "<zorp>.safetensors"},
                                       {EmbeddingFormat::kohya, "<zorp>.pt"}}) {
      write_embeddings(path(name), format, {embedding});
      const std::string first = store::sha256_file(path(name));
      const auto read = read_embeddings(path(name));
      ASSERT_EQ(read.size(), 1u) << name;
      expect_same(read.front(), embedding);
      write_embeddings(path(name), format, read);
      EXPECT_EQ(store::sha256_file(path(name)), first) << name;
    }
  }
}

TEST_F(EmbeddingFileTest, KeepsWhereItComesFrom) {
  for (const auto& [format, name] :
       {std::pair{EmbeddingFormat::a1111, "a.pt"}, {EmbeddingFormat::diffusers, "a.safetensors"}}) {
    write_embeddings(path(name), format, {sample()});
    const Embedding read = read_embeddings(path(name)).front();
    EXPECT_EQ(read.step, 250);
    EXPECT_EQ(read.base_sha256, "0123456789");
    EXPECT_EQ(read.base_name, "base");
  }
}

TEST_F(EmbeddingFileTest, WritesTheKeysThatOthersRead) {
  write_embeddings(path("a.pt"), EmbeddingFormat::a1111, {sample()});
  const PyValue value = store::read_torch_file(path("a.pt"));
  const auto* written = value.get_if<PyDict>();
  ASSERT_NE(written, nullptr);
  EXPECT_EQ(*written->find("string_to_token")->get_if<PyDict>()->find("*")->get_if<std::int64_t>(), 265);
  EXPECT_TRUE(at::equal(*written->find("string_to_param")->get_if<PyDict>()->find("*")->get_if<at::Tensor>(),
                        sample().vectors));
  EXPECT_EQ(*written->find("name")->get_if<std::string>(), "<zorp>") << "diffusers takes it as the token";
  write_embeddings(path("b.safetensors"), EmbeddingFormat::kohya, {sample()});
  EXPECT_EQ(store::read_safetensors(path("b.safetensors")).tensors.count("emb_params"), 1u);
  write_embeddings(path("c.safetensors"), EmbeddingFormat::diffusers, {sample()});
  EXPECT_EQ(store::read_safetensors(path("c.safetensors")).tensors.begin()->first, "<zorp>");
}

TEST_F(EmbeddingFileTest, ReadsEveryLayout) {
  const at::Tensor vectors = normals({2, 8}, 1), other = normals({2, 8}, 2);
  const auto expect = [&](const std::filesystem::path& file, const std::string& token) {
    const auto read = read_embeddings(file);
    ASSERT_EQ(read.size(), 1u) << file;
    EXPECT_EQ(read.front().token, token) << file;
    EXPECT_TRUE(at::equal(read.front().vectors, vectors)) << file;
  };
  const PyDict tokens = dict({{"*", at::tensor({265})}}), star = dict({{"*", vectors}});
  expect(write("style.pt", dict({{"string_to_token", tokens}, {"string_to_param", star}, {"name", "my-style"}})),
         "my-style");
  expect(write("paper.pt", dict({{"string_to_token", tokens}, {"string_to_param", star}})), "paper");
  expect(write("word.pt", dict({{"string_to_token", tokens}, {"string_to_param", dict({{"sks", vectors}})}})), "sks");
  expect(write("kohya.pt", dict({{"emb_params", vectors}})), "kohya");
  expect(write("kohya.safetensors", store::TensorMap{{"emb_params", vectors}}), "kohya");
  expect(write("trainer.safetensors", store::TensorMap{{"emp_params", vectors}}), "trainer");
  expect(write("both.safetensors", store::TensorMap{{"emp_params", vectors}, {"emp_params_out", other}}), "both");
  expect(write("learned_embeds.bin", dict({{"<cat-toy>", vectors}})), "<cat-toy>");
  expect(write("learned_embeds.safetensors", store::TensorMap{{"<cat-toy>", vectors}}), "<cat-toy>");
  expect(write("bare.pt", vectors), "bare");
}

TEST_F(EmbeddingFileTest, ReadsOneVectorWithoutItsAxis) {
  const at::Tensor vector = normals({8}, 1);
  const Embedding read = read_embeddings(write("one.bin", dict({{"<cat-toy>", vector}}))).front();
  EXPECT_TRUE(at::equal(read.vectors, vector.unsqueeze(0)));
}

TEST_F(EmbeddingFileTest, ReadsAndWritesSeveralWords) {
  Embedding second = sample();
  second.token = "<gleep>";
  second.vectors = normals({1, 8}, 3);
  write_embeddings(path("two.safetensors"), EmbeddingFormat::diffusers, {second, sample()});
  const auto read = read_embeddings(path("two.safetensors"));
  ASSERT_EQ(read.size(), 2u);
  expect_same(read[0], second);
  expect_same(read[1], sample());
  EXPECT_THROW(write_embeddings(path("two.pt"), EmbeddingFormat::a1111, {second, sample()}), InputError);
}

TEST_F(EmbeddingFileTest, ReadsAndWritesThePairOfSDXL) {
  Embedding pair = sample();
  pair.second_vectors = normals({3, 12}, 9);
  for (const auto& [format, name] : {std::pair{EmbeddingFormat::a1111, "<zorp>.pt"},
                                     {EmbeddingFormat::kohya, "<zorp>.safetensors"},
                                     {EmbeddingFormat::diffusers, "<zorp>.safetensors"}}) {
    write_embeddings(path(name), format, {pair});
    const Embedding read = read_embeddings(path(name)).front();
    expect_same(read, pair);
    EXPECT_TRUE(at::equal(read.second_vectors, pair.second_vectors));
  }
  EXPECT_NE(refusal(write("g.safetensors", store::TensorMap{{"clip_g", pair.second_vectors}})).find("clip_g"),
            std::string::npos);
  const store::TensorMap uneven{{"clip_l", normals({2, 8}, 1)}, {"clip_g", pair.second_vectors}};
  EXPECT_NE(refusal(write("uneven.safetensors", uneven)).find("found 2 and 3"), std::string::npos);
}

TEST_F(EmbeddingFileTest, ReadsAndWritesSeveralPairsOfSDXL) {
  std::vector<Embedding> written(2);
  for (std::size_t i = 0; i < 2; ++i) {
    const auto count = static_cast<std::int64_t>(i) + 1;
    written[i].token = i == 0 ? "v1.5" : "zorp";
    written[i].vectors = normals({count, 8}, 1);
    written[i].second_vectors = normals({count, 12}, 2);
  }
  write_embeddings(path("pairs.safetensors"), EmbeddingFormat::diffusers, written);
  const std::vector<Embedding> read = read_embeddings(path("pairs.safetensors"));
  ASSERT_EQ(read.size(), 2U);
  for (std::size_t i = 0; i < 2; ++i) {
    expect_same(read[i], written[i]);
    EXPECT_TRUE(at::equal(read[i].second_vectors, written[i].second_vectors));
  }
  EXPECT_THROW(write_embeddings(path("pairs.pt"), EmbeddingFormat::a1111, written), InputError);
  const auto half = write("half.safetensors", store::TensorMap{{"zorp.clip_l", normals({2, 8}, 1)}});
  EXPECT_NE(refusal(half).find("only clip_l"), std::string::npos);
}

TEST_F(EmbeddingFileTest, RefusesWhatIsNoEmbedding) {
  const auto expect = [&](const std::filesystem::path& file, const std::string& text) {
    const std::string message = refusal(file);
    EXPECT_NE(message.find(text), std::string::npos) << message;
  };
  expect(write("text.pt", "hello"), "no textual inversion embedding");
  expect(write("empty.pt", dict({})), "found 0 tensors");
  const store::TensorMap model{{"a.weight", normals({4, 8}, 1)}, {"b.weight", normals({8, 4}, 2)}};
  expect(write("model.safetensors", model), "the first is a.weight");
  expect(write("image.pt", dict({{"x", normals({2, 3, 4}, 1)}})), "(vectors, width)");
  expect(write("whole.pt", dict({{"x", at::ones({2, 3}, at::kLong)}})), "(vectors, width)");
  expect(write("rows.pt", dict({{"x", at::zeros({5000, 2})}})), "(vectors, width)");
  expect(write("nothing.pt", dict({{"x", at::zeros({0, 2})}})), "(vectors, width)");
  expect(write("nan.pt", dict({{"x", at::full({2, 3}, std::numeric_limits<float>::quiet_NaN())}})), "NaN");
}

TEST_F(EmbeddingFileTest, RefusesTruncatedFiles) {
  for (const auto& [format, name] :
       {std::pair{EmbeddingFormat::a1111, "cut.pt"}, {EmbeddingFormat::diffusers, "cut.safetensors"}}) {
    write_embeddings(path(name), format, {sample()});
    const auto size = std::filesystem::file_size(path(name));
    for (const double part : {0.0, 0.1, 0.5, 0.9, 0.999}) {
      std::filesystem::resize_file(path(name), static_cast<std::uintmax_t>(static_cast<double>(size) * part));
      EXPECT_NE(refusal(path(name)), "no error") << name << " " << part;
      write_embeddings(path(name), format, {sample()});
    }
  }
  EXPECT_NE(refusal(path("missing.pt")), "no error");
}

TEST_F(EmbeddingFileTest, RefusesExtensionsThatAFormatHasNot) {
  EXPECT_THROW(write_embeddings(path("a.safetensors"), EmbeddingFormat::a1111, {sample()}), InputError);
  EXPECT_THROW(write_embeddings(path("a.bin"), EmbeddingFormat::kohya, {sample()}), InputError);
  EXPECT_THROW(write_embeddings(path("a.pt"), EmbeddingFormat::diffusers, {sample()}), InputError);
  EXPECT_THROW(parse_embedding_format("ldm"), InputError);
  EXPECT_EQ(parse_embedding_format("kohya"), EmbeddingFormat::kohya);
}

}  // namespace
}  // namespace ldmtune::adapt
