#include "cli/sample_output.h"

#include <algorithm>
#include <cstdio>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>

#include "adapt/merge.h"
#include "core/log.h"
#include "pipeline/infotext.h"
#include "store/files.h"
#include "store/hdf5_writer.h"
#include "store/image.h"
#include "store/safetensors.h"

namespace ldmtune::cli {
namespace {

constexpr std::int64_t kVisibleSide =
    192;  // pixels; smaller pictures are enlarged in the grid unless --scale says otherwise

using pipeline::GenerateResult;

void write_grid(const SampleOptions& options, const SamplePlan& plan, const std::vector<GenerateResult>& results,
                const std::string& parameters) {
  store::ImageGrid grid;
  grid.title = plan.title;
  grid.row_labels = plan.row_labels;
  grid.column_labels = plan.column_labels;
  for (std::size_t first = 0; first < results.size(); first += plan.columns) {
    std::vector<at::Tensor> row(plan.columns);  // the last row's missing cells stay undefined: empty
    for (std::size_t i = first; i < std::min(first + plan.columns, results.size()); ++i)
      row[i - first] = results[i].image;
    grid.rows.push_back(std::move(row));
  }
  const std::int64_t height = results.front().image.size(0);
  const std::int64_t scale = options.scale > 0 ? options.scale : std::max<std::int64_t>(1, kVisibleSide / height);
  store::write_png(options.output, store::draw_grid(grid, static_cast<int>(scale)), {{"parameters", parameters}});
  LDMTUNE_LOG(info) << "wrote " << options.output.string();
}

void write_single(const SampleOptions& options, const SamplePlan& plan, const std::vector<GenerateResult>& results,
                  const std::vector<std::string>& parameters) {
  std::filesystem::create_directories(options.output_dir);
  for (std::size_t i = 0; i < results.size(); ++i) {
    char name[64];
    std::snprintf(name, sizeof name, "image-%03zu-%03zu.png", i / plan.columns, i % plan.columns);
    store::write_png(options.output_dir / name, results[i].image, {{"parameters", parameters[i]}});
  }
  LDMTUNE_LOG(info) << "wrote " << results.size() << " pictures to " << options.output_dir.string();
}

void write_trace(const std::filesystem::path& file, const std::vector<GenerateResult>& results,
                 const std::vector<std::string>& parameters) {
  const auto stacked = [&](at::Tensor GenerateResult::*member) {
    std::vector<at::Tensor> rows;
    for (const GenerateResult& result : results) rows.push_back(result.*member);
    return at::stack(rows);
  };
  store::write_atomically(file, [&](const std::filesystem::path& temporary) {
    store::Hdf5Writer writer(temporary);
    writer.write("/initial_noise", stacked(&GenerateResult::initial_noise));
    writer.write("/final_latent", stacked(&GenerateResult::final_latent));
    writer.write("/image", stacked(&GenerateResult::image));
    writer.write("/context", stacked(&GenerateResult::context));
    writer.attribute("/", "parameters", nlohmann::json(parameters).dump());
    writer.close();
  });
  LDMTUNE_LOG(info) << "wrote " << file.string();
}

std::string shortened(const std::string& hash, std::size_t digits) { return hash.substr(0, digits); }

/// A1111 knows a LoRA by what kohya's scripts noted, else by its tensors' bytes.
std::string lora_hash(const std::filesystem::path& file) {
  store::Metadata metadata;
  store::read_safetensors_header(file, &metadata);
  const auto noted = metadata.find("sshs_model_hash");
  return noted != metadata.end() && !noted->second.empty() ? noted->second : store::sha256_safetensors_data(file);
}

/// What drew the pictures, each file hashed once.
class Credits {
 public:
  Credits(const SampleOptions& options, const model::BaseModel& base) {
    model_.base_name = std::filesystem::weakly_canonical(base.folder).filename().string();
    const bool is_one_file = std::filesystem::is_regular_file(base.folder) && options.base_merge.empty();
    if (is_one_file) model_.base_name = base.folder.stem().string();
    model_.base_hash = shortened(is_one_file ? store::sha256_file(base.folder) : base.sha256, kFileDigits);
    model_.clip_skip = options.clip_skip;
    model_.prompt_weights = options.prompt_weights;
    model_.zero_terminal_snr = options.rescale_betas_zero_snr;
  }

  const pipeline::InfotextModel& of(const SampleSettings& settings, const SampleAdapters& adapters) {
    model_.hypernetworks = used(settings.hypernetwork, "hypernetwork", settings.hypernetwork_strength,
                                [](auto& file) { return shortened(store::sha256_file(file), kFileDigits); });
    model_.loras = used(settings.lora, "lora", settings.lora_strength,
                        [](auto& file) { return shortened(lora_hash(file), kNetworkDigits); });
    model_.embeddings.clear();
    const adapt::LoadedEmbeddings* words = adapters.embeddings(settings);
    for (std::size_t i = 0; words != nullptr && i < words->files().size(); ++i) {
      model_.embeddings.push_back({words->placeholders()[i].token, 1.0, hash(words->files()[i], [](auto& file) {
                                     return shortened(store::sha256_file(file), kNetworkDigits);
                                   })});
    }
    return model_;
  }

 private:
  // A1111's lengths: of models and hypernetworks; of LoRAs and embeddings.
  static constexpr std::size_t kFileDigits = 10, kNetworkDigits = 12;
  using Hash = std::function<std::string(const std::filesystem::path&)>;

  const std::string& hash(const std::filesystem::path& file, const Hash& compute) {
    const auto found = hashes_.find(file);
    return found != hashes_.end() ? found->second : hashes_.emplace(file, compute(file)).first->second;
  }

  /// Names, strengths and hashes, without those of strength 0.
  std::vector<pipeline::InfotextFile> used(const std::string& files, const char* option, double factor,
                                           const Hash& compute) {
    std::vector<pipeline::InfotextFile> found;
    for (const auto& [file, strength] : adapt::parse_weighted_files(files, option)) {
      if (strength * factor != 0) found.push_back({file.stem().string(), strength * factor, hash(file, compute)});
    }
    return found;
  }

  pipeline::InfotextModel model_;
  std::map<std::filesystem::path, std::string> hashes_;
};

}  // namespace

void write_sample_output(const SampleOptions& options, const SamplePlan& plan, const model::BaseModel& base,
                         const SampleAdapters& adapters, const std::vector<pipeline::SharedRequest>& requests,
                         const std::vector<GenerateResult>& results) {
  Credits credits(options, base);
  std::vector<std::string> parameters;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    parameters.push_back(pipeline::infotext(requests[i].request, credits.of(plan.cells[i].settings, adapters),
                                            results[i].image.size(1), results[i].image.size(0)));
  }
  if (!options.output_dir.empty()) write_single(options, plan, results, parameters);
  if (!options.trace.empty()) write_trace(options.trace, results, parameters);
  if (!options.output.empty()) write_grid(options, plan, results, parameters.front());
}

}  // namespace ldmtune::cli
