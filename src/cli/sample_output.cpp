#include "cli/sample_output.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "adapt/merge.h"
#include "core/log.h"
#include "pipeline/infotext.h"
#include "store/files.h"
#include "store/hdf5_writer.h"
#include "store/image.h"

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

/// Names and strengths, without those of strength 0.
std::vector<std::pair<std::string, double>> used_files(const std::string& files, const char* option, double factor) {
  std::vector<std::pair<std::string, double>> used;
  for (const auto& [file, strength] : adapt::parse_weighted_files(files, option)) {
    if (strength * factor != 0) used.emplace_back(file.stem().string(), strength * factor);
  }
  return used;
}

}  // namespace

void write_sample_output(const SampleOptions& options, const SamplePlan& plan, const model::BaseModel& base,
                         const std::vector<pipeline::SharedRequest>& requests,
                         const std::vector<GenerateResult>& results) {
  pipeline::InfotextModel model;
  model.base_name = std::filesystem::weakly_canonical(base.folder).filename().string();
  model.base_sha256 = base.sha256;
  std::vector<std::string> parameters;
  model.clip_skip = options.clip_skip;
  model.prompt_weights = options.prompt_weights;
  for (const std::string& embedding : split_list(options.embedding, ',')) {
    if (!embedding.empty()) model.embeddings.push_back(std::filesystem::path(embedding).stem().string());
  }
  for (std::size_t i = 0; i < requests.size(); ++i) {
    const SampleSettings& settings = plan.cells[i].settings;
    model.hypernetworks = used_files(settings.hypernetwork, "hypernetwork", settings.strength);
    model.loras = used_files(settings.lora, "lora", settings.strength);
    parameters.push_back(
        pipeline::infotext(requests[i].request, model, results[i].image.size(1), results[i].image.size(0)));
  }
  if (!options.output_dir.empty()) write_single(options, plan, results, parameters);
  if (!options.trace.empty()) write_trace(options.trace, results, parameters);
  if (!options.output.empty()) write_grid(options, plan, results, parameters.front());
}

}  // namespace ldmtune::cli
