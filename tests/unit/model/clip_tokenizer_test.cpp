#include "model/clip_tokenizer.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "model/byte_pair_encoding.h"
#include "model/text_normalizer.h"

namespace ldmtune::model {
namespace {

namespace fs = std::filesystem;
using Ids = std::vector<std::int64_t>;

/// A tokenizer folder of the 512 byte tokens, a few merges, and CLIP's two special tokens.
class CLIPTokenizerTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) / ("clip_tokenizer_" + std::to_string(getpid()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    std::vector<std::string> tokens(byte_characters().begin(), byte_characters().end());
    for (const std::string& c : byte_characters()) tokens.push_back(c + "</w>");
    for (const auto& [left, right] : merges_) tokens.push_back(left + right);
    tokens.insert(tokens.end(), {"<|startoftext|>", "<|endoftext|>"});
    for (std::size_t i = 0; i < tokens.size(); ++i) vocabulary_[tokens[i]] = i;
    write("vocab.json", vocabulary_.dump());
    write("merges.txt", merges_text(merges_.size()));
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string merges_text(std::size_t count) const {
    std::string text = "#version: 0.2\n";
    for (std::size_t i = 0; i < count; ++i) text += merges_[i].first + " " + merges_[i].second + "\n";
    return text;
  }
  void write(const std::string& name, const std::string& text) const { std::ofstream(folder_ / name) << text; }
  CLIPTokenizer open() const { return CLIPTokenizer(folder_); }
  std::int64_t id(const std::string& token) const { return vocabulary_.at(token).get<std::int64_t>(); }
  Ids ids(const std::vector<std::string>& tokens) const {
    Ids result;
    for (const std::string& token : tokens) result.push_back(id(token));
    return result;
  }
  void expect_refused(const std::string& expected) const {
    try {
      open();
      ADD_FAILURE() << "opened; expected an error with: " << expected;
    } catch (const InputError& error) {
      EXPECT_NE(std::string(error.what()).find(expected), std::string::npos) << error.what();
    }
  }

  const std::vector<std::pair<std::string, std::string>> merges_{
      {"a", "b"}, {"b", "c</w>"}, {"ab", "c</w>"}, {"t", "t"}, {"tt", "t</w>"}, {"c", "a"}, {"ca", "t</w>"}};
  fs::path folder_;
  nlohmann::json vocabulary_ = nlohmann::json::object();
};

TEST_F(CLIPTokenizerTest, MergesByRankThenFromTheLeft) {
  const CLIPTokenizer tokenizer = open();
  EXPECT_EQ(tokenizer.tokenize("abc"), ids({"abc</w>"}));
  EXPECT_EQ(tokenizer.tokenize("cat"), ids({"cat</w>"}));
  EXPECT_EQ(tokenizer.tokenize("xbc"), ids({"x", "bc</w>"}));
  EXPECT_EQ(tokenizer.tokenize("cab"), ids({"ca", "b</w>"}));  // "ab" exists inside a word only
  EXPECT_EQ(tokenizer.tokenize("cabd"), ids({"c", "ab", "d</w>"}));
  EXPECT_EQ(tokenizer.tokenize("tttt"), ids({"tt", "t", "t</w>"}));
  EXPECT_EQ(tokenizer.tokenize("ttttt"), ids({"tt", "ttt</w>"}));
  EXPECT_EQ(tokenizer.tokenize("b"), ids({"b</w>"}));
}

TEST_F(CLIPTokenizerTest, SplitsWordsDigitsContractionsAndSymbols) {
  const CLIPTokenizer tokenizer = open();
  EXPECT_EQ(tokenizer.tokenize("x's"), ids({"x</w>", "'", "s</w>"}));
  EXPECT_EQ(tokenizer.tokenize("12"), ids({"1</w>", "2</w>"}));
  EXPECT_EQ(tokenizer.tokenize("!?x"), ids({"!", "?</w>", "x</w>"}));
  EXPECT_EQ(tokenizer.tokenize("  x \t\n y\xe3\x80\x80z "), ids({"x</w>", "y</w>", "z</w>"}));
  EXPECT_TRUE(tokenizer.tokenize("").empty());
  EXPECT_TRUE(tokenizer.tokenize(" \n ").empty());
}

TEST_F(CLIPTokenizerTest, ComposesAndLowersUnicode) {
  const CLIPTokenizer tokenizer = open();
  const Ids small_a_ring = tokenizer.tokenize("\u00e5");
  EXPECT_EQ(small_a_ring, ids({byte_characters()[0xc3], byte_characters()[0xa5] + "</w>"}));
  EXPECT_EQ(tokenizer.tokenize("A\u030a"), small_a_ring);
  EXPECT_EQ(tokenizer.tokenize("\u212b"), small_a_ring);
  EXPECT_EQ(normalize_text("\u0130\u03a3"), "i\u0307\u03c3");
  EXPECT_EQ(normalize_text("A\u2003\u00a0B\x1c"), "a b\x1c");
}

TEST_F(CLIPTokenizerTest, SpecialTokensInTheTextAreWhole) {
  const CLIPTokenizer tokenizer = open();
  EXPECT_EQ(tokenizer.tokenize("x<|endoftext|>y"), ids({"x</w>", "<|endoftext|>", "y</w>"}));
  const Ids upper = tokenizer.tokenize("<|ENDOFTEXT|>!");
  EXPECT_EQ(Ids(upper.begin(), upper.begin() + 2), ids({"<", "|</w>"}));
  EXPECT_EQ(Ids(upper.end() - 3, upper.end()), ids({"|", "></w>", "!</w>"}));
}

TEST_F(CLIPTokenizerTest, NormalizedSpecialTokensMatchInAnyCase) {
  const std::string flags = R"(,"lstrip":false,"rstrip":false,"single_word":false,"normalized":true})";
  write("special_tokens_map.json", R"({"bos_token":{"content":"<|startoftext|>")" + flags +
                                       R"(,"pad_token":"!","eos_token":{"content":"<|endoftext|>")" + flags +
                                       R"(,"unk_token":{"content":"<|endoftext|>")" + flags + "}");
  const CLIPTokenizer tokenizer = open();
  EXPECT_EQ(tokenizer.tokenize("<|StartOfText|>x"), ids({"<|startoftext|>", "x</w>"}));
  EXPECT_EQ(tokenizer.tokenize("<|ENDOFTEXT|>"), ids({"<|endoftext|>"}));
  // The padding token of Stable Diffusion 2, found in the text, is the token itself and not "!</w>".
  EXPECT_EQ(tokenizer.pad_token_id(), id("!"));
  EXPECT_EQ(tokenizer.tokenize("x!"), ids({"x</w>", "!"}));
}

TEST_F(CLIPTokenizerTest, AddedTokensExtendTheVocabulary) {
  const auto size = static_cast<std::int64_t>(vocabulary_.size());
  write("added_tokens.json", R"({"<My Cat>": )" + std::to_string(size) + "}");
  const CLIPTokenizer tokenizer = open();
  EXPECT_EQ(tokenizer.vocab_size(), size + 1);
  EXPECT_EQ(tokenizer.tokenize("x<my  cat>y"), (Ids{id("x</w>"), size, id("y</w>")}));
}

TEST_F(CLIPTokenizerTest, EncodePadsTruncatesAndChunks) {
  const CLIPTokenizer tokenizer = open();
  const std::int64_t bos = id("<|startoftext|>"), eos = id("<|endoftext|>");
  const Ids x = ids({"x</w>", "y</w>", "z</w>"});
  const auto fits = tokenizer.encode("x y", 5);
  EXPECT_EQ(fits.input_ids, (Ids{bos, x[0], x[1], eos, eos}));
  EXPECT_FALSE(fits.truncated);
  const auto exact = tokenizer.encode("x y z", 5);
  EXPECT_EQ(exact.input_ids, (Ids{bos, x[0], x[1], x[2], eos}));
  EXPECT_FALSE(exact.truncated);
  const auto cut = tokenizer.encode("x y z x", 5);
  EXPECT_EQ(cut.input_ids, exact.input_ids);
  EXPECT_TRUE(cut.truncated);
  const auto chunks = tokenizer.encode("x y z", 4, 3);
  EXPECT_EQ(chunks.input_ids, (Ids{bos, x[0], x[1], eos, bos, x[2], eos, eos, bos, eos, eos, eos}));
  EXPECT_FALSE(chunks.truncated);
  EXPECT_THROW(tokenizer.encode("x", 2), InputError);
  EXPECT_THROW(tokenizer.encode("x", 5, 0), InputError);
}

TEST_F(CLIPTokenizerTest, DefaultsAreClips) {
  const CLIPTokenizer tokenizer = open();
  EXPECT_EQ(tokenizer.bos_token_id(), id("<|startoftext|>"));
  EXPECT_EQ(tokenizer.eos_token_id(), id("<|endoftext|>"));
  EXPECT_EQ(tokenizer.pad_token_id(), id("<|endoftext|>"));
  EXPECT_EQ(tokenizer.model_max_length(), 77);
  write("tokenizer_config.json", R"({"model_max_length": 1000000000000000019884624838656, "pad_token": null})");
  EXPECT_EQ(open().model_max_length(), 77);
  write("tokenizer_config.json", R"({"model_max_length": 24})");
  EXPECT_EQ(open().model_max_length(), 24);
}

TEST_F(CLIPTokenizerTest, ReadsTokenizerJsonWhereItStandsAlone) {
  nlohmann::json merges = nlohmann::json::array();
  for (const auto& [left, right] : merges_) merges.push_back({left, right});
  const nlohmann::json model = {{"type", "BPE"}, {"vocab", vocabulary_}, {"merges", merges}};
  write("tokenizer.json", nlohmann::json{{"model", model}, {"added_tokens", nlohmann::json::array()}}.dump());
  fs::remove(folder_ / "vocab.json");
  fs::remove(folder_ / "merges.txt");
  EXPECT_EQ(open().tokenize("abc cat"), ids({"abc</w>", "cat</w>"}));
  write("tokenizer.json", R"({"model": {"type": "Unigram", "vocab": []}})");
  expect_refused("model.type \"BPE\"");
}

TEST_F(CLIPTokenizerTest, LongWordsTakeLittleTime) {
  const CLIPTokenizer tokenizer = open();
  EXPECT_EQ(tokenizer.tokenize(std::string(200'000, 't')).size(), 100'001u);
  std::string markers;
  for (int i = 0; i < 10'000; ++i) markers += "<|endoftext|>";
  EXPECT_EQ(tokenizer.tokenize(markers).size(), 10'000u);
}

TEST_F(CLIPTokenizerTest, RefusesWhatIsNoText) {
  const CLIPTokenizer tokenizer = open();
  const std::vector<std::string> bad = {"\xff",
                                        "a\xc3",
                                        "\xc0\x80",
                                        "\xed\xa0\x80",
                                        "\xf4\x90\x80\x80",
                                        "\x80 continuation",
                                        std::string("a\0b", 3),
                                        std::string(kMaxTextBytes + 1, 'a')};
  for (const std::string& text : bad) EXPECT_THROW(tokenizer.tokenize(text), InputError) << text.substr(0, 20);
  EXPECT_THROW(tokenizer.encode("\xff", 77), InputError);
  EXPECT_EQ(tokenizer.tokenize(std::string(kMaxTextBytes, ' ')).size(), 0u);
}

TEST_F(CLIPTokenizerTest, RefusesCutMerges) {
  write("merges.txt", merges_text(merges_.size() - 1));
  expect_refused("none makes the vocabulary's token \"cat</w>\"");
  write("merges.txt", merges_text(merges_.size() - 1) + "ca");
  expect_refused("line 8: expected two tokens");
  write("merges.txt", merges_text(merges_.size() - 1) + "ca t</");
  expect_refused("merge 7 (\"ca t</\") needs the token \"t</\"");
  write("merges.txt", merges_text(merges_.size()) + "a b c\n");
  expect_refused("line 9: expected two tokens");
  write("merges.txt", merges_text(merges_.size()) + "a \xff\n");
  expect_refused("line 9: bad UTF-8");
  write("merges.txt", "");
  expect_refused("merges.txt: 0 merges");
}

TEST_F(CLIPTokenizerTest, RefusesBadVocabularies) {
  write("vocab.json", "[1]");
  expect_refused("vocab.json");
  write("vocab.json", R"({"a": 0, "b": 0})");
  expect_refused("have the same id 0");
  for (const char* id : {"-1", "1.5", "\"1\"", "99999999999", "null"}) {
    write("vocab.json", std::string(R"({"a": )") + id + "}");
    expect_refused("token \"a\": expected an id");
  }
  write("vocab.json", R"({"a": )");
  expect_refused("vocab.json");
  vocabulary_.erase("<|startoftext|>");
  write("vocab.json", vocabulary_.dump());
  expect_refused("bos_token is \"<|startoftext|>\", which the vocabulary lacks");
  fs::remove(folder_ / "vocab.json");
  expect_refused("expected vocab.json and merges.txt, or tokenizer.json; found merges.txt only");
}

TEST_F(CLIPTokenizerTest, RefusesBadTokenizerConfigs) {
  write("tokenizer_config.json", R"({"model_max_length": 2})");
  expect_refused("model_max_length: expected at least 3, found 2");
  write("tokenizer_config.json", R"({"bos_token": 7})");
  expect_refused("bos_token: expected a token, found 7");
  write("tokenizer_config.json", R"({"bos_token": {"content": "a", "single_word": true}})");
  expect_refused("single_word");
  write("tokenizer_config.json", R"({"added_tokens_decoder": {"3": {"content": "<|endoftext|>"}}})");
  expect_refused("token \"<|endoftext|>\": expected id");
  write("tokenizer_config.json", R"({"added_tokens_decoder": {"x": {"content": "<|endoftext|>"}}})");
  expect_refused("found \"x\"");
  fs::remove(folder_ / "tokenizer_config.json");
  write("added_tokens.json", R"({"sks": 3})");
  expect_refused("added_tokens.json: token \"sks\": expected id");
}

TEST_F(CLIPTokenizerTest, AddsTokensBehindTheVocabulary) {
  CLIPTokenizer tokenizer = open();
  const std::string hash = tokenizer.sha256();
  const std::int64_t size = tokenizer.vocab_size();
  const Ids plain = tokenizer.tokenize("cat <Zorp>");
  EXPECT_EQ(tokenizer.add_token("<zorp>", 3), size);
  EXPECT_EQ(tokenizer.add_token("<zorp>2", 1), size + 3);
  EXPECT_EQ(tokenizer.add_token("<zorp>", 3), size) << "again";
  EXPECT_EQ(tokenizer.add_token("late", 1, 2000), 2000);
  EXPECT_EQ(tokenizer.tokenize("cat<ZORP> cat"), (Ids{id("cat</w>"), size, size + 1, size + 2, id("cat</w>")}));
  EXPECT_EQ(tokenizer.tokenize("<zorp>2<zorp>"), (Ids{size + 3, size, size + 1, size + 2}));
  EXPECT_EQ(tokenizer.tokenize("cat <Zorp>", false), plain);
  EXPECT_EQ(tokenizer.encode("late", 4).input_ids[1], 2000);
  EXPECT_EQ(tokenizer.encode("cat <Zorp>", 20, 1, false).input_ids[1], plain[0]);
  EXPECT_EQ(tokenizer.sha256(), hash);
  EXPECT_EQ(tokenizer.vocab_size(), size);
}

TEST_F(CLIPTokenizerTest, CutsLongPlaceholdersLikeOtherTokens) {
  CLIPTokenizer tokenizer = open();
  const std::int64_t first = tokenizer.add_token("<zorp>", 3);
  const auto encoded = tokenizer.encode("cat <zorp>", 5, 1);
  EXPECT_TRUE(encoded.truncated);
  EXPECT_EQ(encoded.input_ids[3], first + 1);
  EXPECT_EQ(tokenizer.encode("cat <zorp>", 5, 2).input_ids[6], first + 2);
}

TEST_F(CLIPTokenizerTest, RefusesTokensThatCannotBeAdded) {
  CLIPTokenizer tokenizer = open();
  tokenizer.add_token("<zorp>", 3);
  const auto expect = [&](const std::string& content, std::int64_t count, const std::string& text) {
    try {
      tokenizer.add_token(content, count);
      ADD_FAILURE() << content << " was added";
    } catch (const InputError& error) {
      EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find("placeholder token"), std::string::npos) << error.what();
    }
  };
  expect("", 1, "without white space");
  expect("two words", 1, "without white space");
  expect("tab\tbed", 1, "without white space");
  expect("\xff", 1, "placeholder token");
  expect("zero", 0, "found 0");
  expect("cat", 1, "vocabulary already; choose a word that it does not know, such as <cat-1>");
  expect("Cat", 1, "vocabulary already");
  expect("ca", 1, "vocabulary already");
  expect("<|endoftext|>", 1, "vocabulary already");
  expect("<ZORP>", 2, "there already with 3 vectors");
}

}  // namespace
}  // namespace ldmtune::model
