#include "model/base_model.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <fstream>

#include "core/error.h"
#include "store/files.h"
#include "store/safetensors.h"

namespace ldmtune::model {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const BaseModelOptions kVaeOnly{.variant = "", .vae = true, .unet = false, .text = false};
const BaseModelOptions kTextOnly{.variant = "", .vae = false, .unet = false, .text = true};

/// A copy of the embedded base made of symlinks, as a cache snapshot is; tests replace single files.
class BaseModelTest : public testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::path(testing::TempDir()) / ("base_model_" + std::to_string(getpid()));
    base_ = root_ / "snapshots" / "0123abcd";
    fs::remove_all(root_);
    const fs::path source = fs::path(LDMTUNE_SOURCE_DIR) / "datasets/emoji-base";
    for (const char* component : {"unet", "vae", "text_encoder", "tokenizer", "scheduler"}) {
      fs::create_directories(base_ / component);
      for (const auto& entry : fs::directory_iterator(source / component)) {
        fs::create_symlink(entry.path(), base_ / component / entry.path().filename());
      }
    }
    fs::create_symlink(source / "model_index.json", base_ / "model_index.json");
  }
  void TearDown() override { fs::remove_all(root_); }

  BaseModel load(const BaseModelOptions& options = {}) const { return load_base_model(base_, options); }
  void replace(const std::string& name, const std::string& text) const {
    fs::remove(base_ / name);
    std::ofstream(base_ / name) << text;
  }
  void edit(const std::string& name, const std::function<void(json&)>& change) const {
    json value = store::read_json(base_ / name);
    change(value);
    replace(name, value.dump());
  }
  store::TensorMap tensors(const std::string& name) const { return store::read_safetensors(base_ / name).tensors; }
  void write(const std::string& name, const store::TensorMap& tensors) const {
    fs::remove(base_ / name);
    store::write_safetensors(base_ / name, tensors);
  }
  void expect_refused(const std::vector<std::string>& parts, const BaseModelOptions& options = {}) const {
    try {
      load(options);
      ADD_FAILURE() << "loaded; expected an error with: " << parts.front();
    } catch (const InputError& error) {
      for (const std::string& part : parts) {
        EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << "no \"" << part << "\": " << error.what();
      }
    }
  }

  fs::path root_, base_;
};

constexpr char kVae[] = "vae/diffusion_pytorch_model.safetensors";
constexpr char kText[] = "text_encoder/model.safetensors";

TEST_F(BaseModelTest, LoadsASnapshotOfSymlinks) {
  const BaseModel base = load();
  EXPECT_EQ(base.model_max_length, 24);
  EXPECT_EQ(base.unet->cross_attention_dim(), base.text_encoder->hidden_size());
  EXPECT_EQ(base.scheduler_config.at("beta_schedule"), "scaled_linear");
  EXPECT_FALSE(base.scheduler_config.contains("trained_betas"));  // null in the file
  for (const std::string& hash : {base.sha256, base.unet_sha256, base.text_encoder_sha256, base.vae_sha256}) {
    EXPECT_EQ(hash.size(), 64u);
  }
  EXPECT_EQ(base.unet->parameters().begin()->second.scalar_type(), at::kFloat);
}

TEST_F(BaseModelTest, LoadsOnlyWhatIsAskedFor) {
  for (const char* other : {"unet", "text_encoder", "tokenizer", "scheduler"}) fs::remove_all(base_ / other);
  const BaseModel base = load(kVaeOnly);
  EXPECT_TRUE(base.vae && !base.unet && !base.text_encoder && !base.tokenizer);
  EXPECT_TRUE(base.sha256.empty());
  expect_refused({"unet", "no such folder"});
}

TEST_F(BaseModelTest, DtypeIsTheOneAskedFor) {
  BaseModelOptions options = kVaeOnly;
  options.dtype = at::kBFloat16;
  const BaseModel base = load(options);
  EXPECT_EQ(base.vae->parameters().begin()->second.scalar_type(), at::kBFloat16);
  EXPECT_EQ(base.vae_sha256, load(kVaeOnly).vae_sha256);
}

TEST_F(BaseModelTest, VariantsOfTheSameWeightsHashAlike) {
  const std::string hash = load(kVaeOnly).vae_sha256;
  store::TensorMap full = tensors(kVae);
  for (auto& entry : full) entry.second = entry.second.to(at::kFloat);
  const store::TensorMap half = tensors(kVae);
  write(kVae, full);
  EXPECT_EQ(load(kVaeOnly).vae_sha256, hash);
  BaseModelOptions fp16 = kVaeOnly;
  fp16.variant = "fp16";
  EXPECT_EQ(load(fp16).vae_sha256, hash);  // the plain file stands in for the missing variant
  store::TensorMap other = half;
  other.begin()->second = other.begin()->second + 1;
  write("vae/diffusion_pytorch_model.fp16.safetensors", other);
  EXPECT_NE(load(fp16).vae_sha256, hash);
  EXPECT_EQ(load(kVaeOnly).vae_sha256, hash);
  fs::remove(base_ / kVae);
  EXPECT_EQ(load(kVaeOnly).vae_sha256, load(fp16).vae_sha256);  // and the other way round
}

TEST_F(BaseModelTest, ShardsHashAlike) {
  const std::string hash = load(kVaeOnly).vae_sha256;
  std::array<store::TensorMap, 2> shards;
  const std::array<std::string, 2> names{"diffusion_pytorch_model-00001-of-00002.safetensors",
                                         "diffusion_pytorch_model-00002-of-00002.safetensors"};
  json index = {{"metadata", {{"total_size", 1}}}, {"weight_map", json::object()}};
  std::size_t i = 0;
  for (const auto& [key, tensor] : tensors(kVae)) {
    shards[i % 2].emplace(key, tensor);
    index["weight_map"][key] = names[i++ % 2];
  }
  fs::remove(base_ / kVae);
  for (std::size_t shard = 0; shard < 2; ++shard) write("vae/" + names[shard], shards[shard]);
  replace("vae/diffusion_pytorch_model.safetensors.index.json", index.dump());
  EXPECT_EQ(load(kVaeOnly).vae_sha256, hash);
  fs::remove(base_ / ("vae/" + names[1]));
  expect_refused({names[1]}, kVaeOnly);
}

TEST_F(BaseModelTest, OtherNamesOfKeysHashAlike) {
  const std::string vae_hash = load(kVaeOnly).vae_sha256;
  store::TensorMap older;
  for (const auto& [key, tensor] : tensors(kVae)) {
    std::string name = key;
    const std::map<std::string, std::string> names{
        {".to_q.", ".query."}, {".to_k.", ".key."}, {".to_v.", ".value."}, {".to_out.0.", ".proj_attn."}};
    for (const auto& [newer, old] : names) {
      if (const auto at = name.find(newer); at != std::string::npos) name.replace(at, newer.size(), old);
    }
    older.emplace(name, name != key && tensor.dim() == 2 ? tensor.unsqueeze(2).unsqueeze(3) : tensor);
  }
  ASSERT_EQ(older.count("decoder.mid_block.attentions.0.proj_attn.weight"), 1u);
  write(kVae, older);
  EXPECT_EQ(load(kVaeOnly).vae_sha256, vae_hash);

  const std::string text_hash = load(kTextOnly).text_encoder_sha256;
  store::TensorMap bare{{"embeddings.position_ids", at::arange(24).unsqueeze(0)}};
  for (const auto& [key, tensor] : tensors(kText)) bare.emplace(key.substr(key.find('.') + 1), tensor);
  ASSERT_EQ(bare.count("final_layer_norm.weight"), 1u);
  write(kText, bare);
  EXPECT_EQ(load(kTextOnly).text_encoder_sha256, text_hash);
}

TEST_F(BaseModelTest, HashFollowsWhatChangesTraining) {
  const std::string hash = load().sha256;
  edit("scheduler/scheduler_config.json", [](json& config) {
    config["steps_offset"] = 7;
    config["_diffusers_version"] = "9";
  });
  EXPECT_EQ(load().sha256, hash);
  fs::remove(base_ / "tokenizer/tokenizer.json");
  EXPECT_EQ(load().sha256, hash);
  edit("scheduler/scheduler_config.json", [](json& config) { config["prediction_type"] = "v_prediction"; });
  EXPECT_NE(load().sha256, hash);
}

TEST_F(BaseModelTest, SaysWhatTheFolderIs) {
  EXPECT_THROW(load_base_model(base_ / "nowhere"), InputError);
  EXPECT_THROW(load_base_model(base_ / "model_index.json"), InputError);
  EXPECT_THROW(load_base_model(""), InputError);
  try {
    load_base_model(root_);
    ADD_FAILURE();
  } catch (const InputError& error) {
    EXPECT_NE(std::string(error.what()).find("give its snapshot, " + base_.string()), std::string::npos)
        << error.what();
  }
  replace("model_index.json", "[]");
  expect_refused({"model_index.json", "_class_name"});
  fs::remove(base_ / "model_index.json");
  fs::create_symlink("model_index.json", base_ / "model_index.json");
  expect_refused({"model_index.json"});
}

TEST_F(BaseModelTest, RefusesOtherModelsByName) {
  const std::map<std::string, std::string> refused{{"FluxPipeline", "not a UNet model"},
                                                   {"StableDiffusion3Pipeline", "not a UNet model"},
                                                   {"StableDiffusionXLImg2ImgPipeline", "refiner"},
                                                   {"StableDiffusionInpaintPipeline", "inpainting"},
                                                   {"StableDiffusionDepth2ImgPipeline", "more than latents and text"}};
  for (const auto& [pipeline, what] : refused) {
    edit("model_index.json", [&name = pipeline](json& index) { index["_class_name"] = name; });
    expect_refused({"the base is " + pipeline, what});
  }
  edit("model_index.json", [](json& index) {
    index["_class_name"] = "PixArtAlphaPipeline";
    index["transformer"] = {"diffusers", "PixArtTransformer2DModel"};
  });
  expect_refused({"PixArtAlphaPipeline, not a UNet model"});
}

TEST_F(BaseModelTest, ExpectsTheSecondTextEncoderOfAnXLModel) {
  edit("model_index.json", [](json& index) { index["_class_name"] = "StableDiffusionXLPipeline"; });
  expect_refused({"text_encoder_2 is absent; expected CLIPTextModelWithProjection"});
  edit("model_index.json", [](json& index) {
    index["text_encoder_2"] = {"transformers", "CLIPTextModelWithProjection"};
    index["tokenizer_2"] = {"transformers", "CLIPTokenizer"};
  });
  expect_refused({"text_encoder_2: no such folder"});
  fs::create_directory_symlink(base_ / "text_encoder", base_ / "text_encoder_2");
  fs::create_directory_symlink(base_ / "tokenizer", base_ / "tokenizer_2");
  expect_refused({"no text_projection.weight", "SDXL"});
}

TEST_F(BaseModelTest, RefusesOtherComponents) {
  edit("model_index.json", [](json& index) { index["text_encoder"][1] = "RobertaSeriesModelWithTransformation"; });
  expect_refused({"text_encoder is RobertaSeriesModelWithTransformation; expected CLIPTextModel"});
  edit("model_index.json", [](json& index) { index["text_encoder"] = {nullptr, nullptr}; });
  expect_refused({"text_encoder is absent; expected CLIPTextModel"});
  EXPECT_NO_THROW(load(kVaeOnly));
  edit("model_index.json", [](json& index) { index["vae"][1] = "AsymmetricAutoencoderKL"; });
  expect_refused({"vae is AsymmetricAutoencoderKL; expected AutoencoderKL"}, kVaeOnly);
}

TEST_F(BaseModelTest, RefusesMissingAndForeignFiles) {
  fs::remove(base_ / "scheduler/scheduler_config.json");
  expect_refused({"scheduler_config.json: no such file"});
  fs::rename(base_ / kVae, base_ / "vae/diffusion_pytorch_model.bin");
  expect_refused({"diffusion_pytorch_model.bin only", "convert it to safetensors"}, kVaeOnly);
  fs::remove(base_ / "vae/diffusion_pytorch_model.bin");
  expect_refused({"/vae", "no weights"}, kVaeOnly);
  fs::remove(base_ / "vae/config.json");
  expect_refused({"vae/config.json: no such file"}, kVaeOnly);
  replace("vae/config.json", "7");
  expect_refused({"vae/config.json: expected a JSON object"}, kVaeOnly);
  fs::remove_all(base_ / "tokenizer");
  expect_refused({"tokenizer: no such folder", "expected CLIPTokenizer"}, kTextOnly);
}

TEST_F(BaseModelTest, RefusesWrongTensors) {
  const store::TensorMap good = tensors(kVae);
  const std::string key = "decoder.conv_in.weight";
  store::TensorMap bad = good;
  bad.erase(key);
  write(kVae, bad);
  expect_refused({"/vae", key, "missing"}, kVaeOnly);
  bad = good;
  bad["decoder.more.weight"] = at::zeros({2});
  write(kVae, bad);
  expect_refused({"/vae", "decoder.more.weight"}, kVaeOnly);
  bad = good;
  bad[key] = at::zeros({2, 3});
  write(kVae, bad);
  expect_refused({key, "[2, 3]", "expected"}, kVaeOnly);
  bad = good;
  bad[key] = bad[key].clone().fill_(std::nan(""));
  write(kVae, bad);
  expect_refused({key, "NaN"}, kVaeOnly);
  replace(kVae, "no weights at all");
  expect_refused({"diffusion_pytorch_model.safetensors"}, kVaeOnly);
}

TEST_F(BaseModelTest, RefusesComponentsThatDoNotFitTogether) {
  edit("unet/config.json", [](json& config) { config["in_channels"] = 9; });
  store::TensorMap unet = tensors("unet/diffusion_pytorch_model.safetensors");
  unet["conv_in.weight"] = at::zeros({unet["conv_in.weight"].size(0), 9, 3, 3});
  write("unet/diffusion_pytorch_model.safetensors", unet);
  expect_refused({"in_channels is 9; expected 4", "inpainting"});
  const auto size = tensors(kText).at("text_model.embeddings.token_embedding.weight").size(0);
  json added = {{"<one>", size}, {"<two>", size + 1}};
  replace("tokenizer/added_tokens.json", added.dump());
  expect_refused({"tokens; expected at most " + std::to_string(size)}, kTextOnly);
}

}  // namespace
}  // namespace ldmtune::model
