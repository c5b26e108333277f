#include "adapt/textual_inversion.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "core/error.h"
#include "small_network.h"

namespace ldmtune::adapt {
namespace {

constexpr std::int64_t kWidth = 8;

/// Two words: ids 50 and 51, and 52.
std::vector<Placeholder> two_words() {
  return {{"<zorp>", 50, normals({2, kWidth}, 1)}, {"<gleep>", 52, normals({1, kWidth}, 2)}};
}

model::BaseModel load(const std::filesystem::path& folder) {
  model::BaseModelOptions options;
  options.vae = options.unet = false;
  return model::load_base_model(folder, options);
}

/// A base of one tokenizer and text encoder, as small as the one in datasets/.
const model::BaseModel& base() {
  static const model::BaseModel loaded = load(std::filesystem::path(LDMTUNE_SOURCE_DIR) / "datasets" / "emoji-base");
  return loaded;
}
/// The base with a tokenizer that has learned nothing yet.
model::BaseModel fresh_base() { return load(base().folder); }

at::Tensor base_embedding(const std::string& token) {
  const auto ids = base().tokenizer->tokenize(token);
  return base().text_encoder->parameters().at("text_model.embeddings.token_embedding.weight")[ids.at(0)];
}

std::string refusal(const TextualInversionConfig& config, const model::BaseModel& on = base()) {
  try {
    make_placeholders(config, on);
  } catch (const InputError& error) {
    return error.what();
  }
  return "no error";
}

TEST(TextualInversion, ParametersAreNamedByWordWhereThereAreSeveral) {
  const TextualInversion one({two_words().front()}), two(two_words());
  ASSERT_EQ(one.parameters().size(), 1u);
  EXPECT_EQ(one.parameters()[0].name, "embedding");
  EXPECT_EQ(one.parameters()[0].shape, (std::vector<std::int64_t>{2, kWidth}));
  EXPECT_EQ(two.parameters()[0].name, "embedding.<zorp>");
  EXPECT_EQ(two.parameters()[1].name, "embedding.<gleep>");
  EXPECT_EQ(two.parameters()[1].group, "embedding");
  EXPECT_TRUE(one.trains_text_encoder());
  EXPECT_EQ(one.file_extension(), ".pt");
  EXPECT_EQ(two.file_extension(), ".safetensors");
}

TEST(TextualInversion, HooksReplaceNewIdsOnlyAndLeadGradientsToTheirVectors) {
  const TextualInversion adapter(two_words());
  const optim::Arena arena(adapter.parameters());
  adapter.initialize(arena, 0);
  const auto hooks = adapter.hooks(arena, {});
  const at::Tensor ids = at::tensor({3, 50, 51, 52, 49, 51, 53, 9}, at::kLong).view({2, 4});
  const at::Tensor embedded = normals({2, 4, kWidth}, 5);
  const at::Tensor result = hooks->token_embedding(ids, embedded);
  const at::Tensor zorp = two_words()[0].initial, gleep = two_words()[1].initial;
  EXPECT_TRUE(at::equal(result[0][0], embedded[0][0]));
  EXPECT_TRUE(at::equal(result[0][1], zorp[0]));
  EXPECT_TRUE(at::equal(result[0][2], zorp[1]));
  EXPECT_TRUE(at::equal(result[0][3], gleep[0]));
  EXPECT_TRUE(at::equal(result[1][0], embedded[1][0]));
  EXPECT_TRUE(at::equal(result[1][1], zorp[1]));
  EXPECT_TRUE(at::equal(result[1][2], embedded[1][2])) << "id 53 is nobody's";
  EXPECT_TRUE(at::equal(result[1][3], embedded[1][3]));

  const at::Tensor weight = normals({2, 4, kWidth}, 6);
  (result * weight).sum().backward();
  const auto gradients = arena.gradient_views();
  EXPECT_TRUE(at::equal(gradients.at("embedding.<zorp>")[0], weight[0][1]));
  EXPECT_TRUE(at::allclose(gradients.at("embedding.<zorp>")[1], weight[0][2] + weight[1][1]));
  EXPECT_TRUE(at::equal(gradients.at("embedding.<gleep>")[0], weight[0][3]));
}

TEST(TextualInversion, ABatchWithoutTheWordHasZeroGradient) {
  const TextualInversion adapter(two_words());
  const optim::Arena arena(adapter.parameters());
  adapter.initialize(arena, 0);
  const at::Tensor embedded = normals({1, 2, kWidth}, 5);
  const at::Tensor result =
      adapter.hooks(arena, {})->token_embedding(at::tensor({1, 2}, at::kLong).view({1, 2}), embedded);
  EXPECT_TRUE(at::equal(result, embedded));
  result.sum().backward();
  EXPECT_EQ(arena.gradients().count_nonzero().item<std::int64_t>(), 0);
}

TEST(TextualInversion, TheSecondTextEncoderHasIdsAndVectorsOfItsOwn) {
  constexpr std::int64_t kSecondWidth = 12;
  std::vector<Placeholder> words = two_words();
  for (Placeholder& word : words) {
    word.second_id = word.first_id + 100;
    word.second_initial = normals({word.initial.size(0), kSecondWidth}, 30 + static_cast<std::uint64_t>(word.first_id));
  }
  const TextualInversion adapter(words), single({words.front()});
  EXPECT_EQ(single.parameters()[1].name, "embedding_2");
  ASSERT_EQ(adapter.parameters().size(), 4u);
  EXPECT_EQ(adapter.parameters()[2].name, "embedding_2.<zorp>");
  EXPECT_EQ(adapter.parameters()[2].shape, (std::vector<std::int64_t>{2, kSecondWidth}));
  const optim::Arena arena(adapter.parameters());
  adapter.initialize(arena, 0);
  const auto hooks = adapter.hooks(arena, {});
  const at::Tensor ids = at::tensor({50, 151}, at::kLong).view({1, 2});
  hooks->begin_text_encoder(0);
  const at::Tensor first = hooks->token_embedding(ids, at::zeros({1, 2, kWidth}));
  EXPECT_TRUE(at::equal(first[0][0], words[0].initial[0]));
  EXPECT_EQ(first[0][1].count_nonzero().item<std::int64_t>(), 0);
  hooks->begin_text_encoder(1);
  const at::Tensor second = hooks->token_embedding(ids, at::zeros({1, 2, kSecondWidth}));
  EXPECT_EQ(second[0][0].count_nonzero().item<std::int64_t>(), 0);
  EXPECT_TRUE(at::equal(second[0][1], words[0].second_initial[1]));

  const auto file = std::filesystem::temp_directory_path() / ("ldmtune-pair-" + std::to_string(getpid()) + ".pt");
  const optim::Arena one(single.parameters());
  single.initialize(one, 0);
  single.export_file(one, file, {});
  EXPECT_TRUE(at::equal(read_embeddings(file).front().second_vectors, words[0].second_initial));
  std::filesystem::remove(file);
}

TEST(TextualInversion, APlanNeedsNoWeights) {
  TextualInversionConfig config;
  config.placeholder_token = {"<planned>", "<too>"};
  config.num_vectors = {3, 1};
  const auto planned = planned_parameters(config, base().folder);
  const auto made = TextualInversion(make_placeholders(config, base())).parameters();
  ASSERT_EQ(planned.size(), made.size());
  for (std::size_t i = 0; i < made.size(); ++i) {
    EXPECT_EQ(planned[i].name, made[i].name);
    EXPECT_EQ(planned[i].shape, made[i].shape);
  }
  EXPECT_THROW(planned_parameters(config, base().folder / "unet"), InputError);
}

TEST(TextualInversion, HalfPrecisionBasesGetTheirOwnType) {
  const TextualInversion adapter(two_words());
  const optim::Arena arena(adapter.parameters());
  adapter.initialize(arena, 0);
  const at::Tensor embedded = normals({1, 2, kWidth}, 5).to(at::kBFloat16);
  const at::Tensor result =
      adapter.hooks(arena, {})->token_embedding(at::tensor({1, 50}, at::kLong).view({1, 2}), embedded);
  EXPECT_EQ(result.scalar_type(), at::kBFloat16);
  EXPECT_TRUE(at::equal(result[0][1], two_words()[0].initial[0].to(at::kBFloat16)));
}

TEST(TextualInversion, VectorsStartFromTextSpreadOverThem) {
  const auto tokens = base().tokenizer->tokenize("blue monster on white background");
  ASSERT_GE(tokens.size(), 5u);
  TextualInversionConfig config;
  config.placeholder_token = {"<spread>"};
  config.num_vectors = {3};
  config.initializer_text = {"blue monster on white background"};
  const Placeholder word = make_placeholders(config, base()).front();
  const at::Tensor& table = base().text_encoder->parameters().at("text_model.embeddings.token_embedding.weight");
  ASSERT_EQ(word.initial.size(0), 3);
  for (std::int64_t i = 0; i < 3; ++i) {
    const auto source = tokens[static_cast<std::size_t>(i * static_cast<std::int64_t>(tokens.size()) / 3)];
    EXPECT_TRUE(at::equal(word.initial[i], table[source])) << i;
  }
  EXPECT_GE(word.first_id, base().text_encoder->vocab_size());
  const auto ids = base().tokenizer->tokenize("a <spread>");
  EXPECT_EQ(std::vector<std::int64_t>(ids.end() - 3, ids.end()),
            (std::vector<std::int64_t>{word.first_id, word.first_id + 1, word.first_id + 2}));
}

TEST(TextualInversion, VectorsStartFromATokenOrFromZeros) {
  TextualInversionConfig config;
  config.placeholder_token = {"<first>", "<second>"};
  config.num_vectors = {2, 1};
  config.initializer_token = {"monster", ""};
  const auto words = make_placeholders(config, base());
  EXPECT_TRUE(at::equal(words[0].initial, base_embedding("monster").expand({2, -1})));
  EXPECT_EQ(words[1].initial.count_nonzero().item<std::int64_t>(), 0);
  EXPECT_EQ(words[1].first_id, words[0].first_id + 2);
}

TEST(TextualInversion, VectorsStartFromAFile) {
  const auto file = std::filesystem::temp_directory_path() / ("ldmtune-start-" + std::to_string(getpid()) + ".pt");
  const std::int64_t width = base().text_encoder->hidden_size();
  write_embeddings(file, EmbeddingFormat::a1111, {{"old", normals({2, width}, 4), {}, 1, "", ""}});
  TextualInversionConfig config;
  config.placeholder_token = {"<again>"};
  config.initial_embedding = {file.string()};
  EXPECT_TRUE(at::equal(make_placeholders(config, base()).front().initial, normals({2, width}, 4)));
  config.num_vectors = {3};
  EXPECT_NE(refusal(config, fresh_base()).find("holds 2 vectors, num_vectors says 3"), std::string::npos);
  config.num_vectors = {};
  write_embeddings(file, EmbeddingFormat::a1111, {{"old", normals({2, width + 1}, 4), {}, 1, "", ""}});
  const std::string message = refusal(config, fresh_base());
  EXPECT_NE(message.find(std::to_string(width + 1) + " wide"), std::string::npos) << message;
  EXPECT_NE(message.find(std::to_string(width) + " wide"), std::string::npos) << message;
  std::filesystem::remove(file);
}

TEST(TextualInversion, OfAFileOfSeveralWordsThePlaceholdersOwnIsTheStart) {
  const auto file =
      std::filesystem::temp_directory_path() / ("ldmtune-two-" + std::to_string(getpid()) + ".safetensors");
  const std::int64_t width = base().text_encoder->hidden_size();
  write_embeddings(
      file, EmbeddingFormat::diffusers,
      {{"<near>", normals({2, width}, 4), {}, 1, "", ""}, {"<far>", normals({1, width}, 5), {}, 1, "", ""}});
  TextualInversionConfig config;
  config.placeholder_token = {"<far>", "<near>"};
  config.initial_embedding = {file.string()};
  const auto words = make_placeholders(config, fresh_base());
  EXPECT_TRUE(at::equal(words[0].initial, normals({1, width}, 5)));
  EXPECT_TRUE(at::equal(words[1].initial, normals({2, width}, 4)));
  config.placeholder_token = {"<there>"};
  const std::string message = refusal(config, fresh_base());
  EXPECT_NE(message.find("<near>"), std::string::npos) << message;
  EXPECT_NE(message.find("none is <there>"), std::string::npos) << message;
  std::filesystem::remove(file);
}

TEST(TextualInversion, RefusesOptionsThatMeanNothing) {
  const model::BaseModel fresh = fresh_base();
  const auto expect = [&](const TextualInversionConfig& given, const std::string& text) {
    const std::string message = refusal(given, fresh);
    EXPECT_NE(message.find(text), std::string::npos) << message;
  };
  TextualInversionConfig config;
  expect(config, "placeholder_token: not given");
  config.placeholder_token = {"monster"};
  expect(config, "vocabulary already");
  config.placeholder_token = {"<zorp>", "<zorp>"};
  expect(config, "twice");
  config.placeholder_token = {"<zorp>", "<gleep>"};
  config.num_vectors = {1, 2, 3};
  expect(config, "num_vectors: expected 1 value or 2");
  config.placeholder_token = {"<zorp>"};
  for (const double vectors : {0.0, 1.5, -1.0, 1e9}) {
    config.num_vectors = {vectors};
    expect(config, "num_vectors: expected a whole number from 1 to 22");
  }
  config.num_vectors = {1};
  config.initializer_token = {"blue monster"};
  expect(config, "'blue monster' is 2");
  config.initializer_text = {"monster"};
  expect(config, "one of them only");
}

TEST(LoadedEmbeddings, AreDrawnWithUnderTheirTokenOrAnother) {
  const auto file = std::filesystem::temp_directory_path() / ("ldmtune-loaded-" + std::to_string(getpid()) + ".pt");
  const std::int64_t width = base().text_encoder->hidden_size();
  write_embeddings(file, EmbeddingFormat::a1111, {{"<loaded>", normals({2, width}, 4), {}, 1, "", ""}});
  const LoadedEmbeddings none({}, base()), named({file.string()}, base()), other({file.string() + "=<other>"}, base());
  EXPECT_EQ(none.hooks(), nullptr);
  EXPECT_EQ(named.placeholders().front().token, "<loaded>");
  EXPECT_EQ(other.placeholders().front().token, "<other>");
  const auto ids = base().tokenizer->tokenize("<OTHER>");
  ASSERT_EQ(ids.size(), 2u);
  EXPECT_EQ(ids.front(), other.placeholders().front().first_id);
  const at::Tensor row =
      other.hooks()->token_embedding(at::tensor(ids, at::kLong).view({1, 2}), at::zeros({1, 2, width}));
  EXPECT_TRUE(at::equal(row[0], normals({2, width}, 4)));
  write_embeddings(file, EmbeddingFormat::a1111, {{"<wide>", normals({2, 768}, 4), {}, 1, "", ""}});
  EXPECT_THROW(LoadedEmbeddings({file.string()}, base()), InputError);
  std::filesystem::remove(file);
}

TEST(LoadedEmbeddings, ATrainedFileGivesTheTrainedVectors) {
  const std::int64_t width = base().text_encoder->hidden_size();
  const TextualInversion adapter({{"<exported>", 3000, normals({2, width}, 8)}});
  const optim::Arena arena(adapter.parameters());
  adapter.initialize(arena, 0);
  const auto file = std::filesystem::temp_directory_path() / ("ldmtune-exported-" + std::to_string(getpid()) + ".pt");
  adapter.export_file(arena, file, {"run", 12, "abc", "emoji-base"});
  const Embedding read = read_embeddings(file).front();
  EXPECT_EQ(read.token, "<exported>");
  EXPECT_EQ(read.step, 12);
  EXPECT_EQ(read.base_sha256, "abc");
  EXPECT_TRUE(
      at::equal(LoadedEmbeddings({file.string()}, base()).placeholders().front().initial, normals({2, width}, 8)));
  std::filesystem::remove(file);
}

}  // namespace
}  // namespace ldmtune::adapt
