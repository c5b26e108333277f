#include "sweep/best.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "core/error.h"
#include "core/log.h"
#include "store/files.h"
#include "store/image.h"

namespace ldmtune::sweep {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr std::size_t kPreviewRows = 6;
constexpr std::int64_t kReadableSide = 128;  // smaller pictures are enlarged to about this

/// Losses are comparable only on the same base and the same validation images.
void warn_if_not_comparable(const std::vector<ResultRow>& rows) {
  for (const char* key : {"base_sha256", "dataset_sha256"}) {
    std::string first;
    for (const ResultRow& row : rows) {
      if (!is_scored(row)) continue;
      const std::string value = row.state.result.value(key, "");
      if (first.empty()) first = value;
      if (value != first) {
        LDMTUNE_LOG(warning) << "trials of this sweep differ in " << key
                             << ": their held-out losses compare different things";
        return;
      }
    }
  }
}

json card(const Grid& grid, const std::vector<ResultRow>& rows, const ResultRow& best, const fs::path& file) {
  const json& result = best.state.result;
  json options = json::object();
  for (const auto& [name, value] : best.trial->varied) {
    options[name] = best.trial->inactive.count(name) ? json() : json(value);
  }
  const auto candidates = std::count_if(rows.begin(), rows.end(), is_scored);
  return {{"format", "ldmtune-best"},
          {"version", 1},
          {"file", file.filename().string()},
          {"sha256", store::sha256_file(file)},
          {"chosen_by", "lowest mean held-out (validation) loss over seeds, then the seed with the lowest"},
          {"candidates", candidates},
          {"trial", best.trial->number},
          {"id", best.trial->id},
          {"folder", "trials/" + best.state.folder.filename().string()},
          {"checkpoint", result.value("checkpoint", "")},
          {"method", best.trial->config.method},
          {"options", options},
          {"seed", best.trial->config.train.seed},
          {"subset", best.trial->config.data_options.subset},
          {"subset_seed", best.trial->config.data_options.subset_seed},
          {"scores", scores_of(result)},
          {"base", {{"path", best.trial->config.base.string()}, {"sha256", result.value("base_sha256", "")}}},
          {"dataset", {{"path", best.trial->config.data.string()}, {"sha256", result.value("dataset_sha256", "")}}},
          {"sweep", grid.sweep.output.string()}};
}

/// Captions by rows: the untouched base and the trial, of the pictures that the sweep drew. False without any.
bool draw_preview(const Grid& grid, const ResultRow& best, const fs::path& file) {
  const fs::path folder = grid.sweep.output / "pictures";
  const std::string own = best.state.folder.filename().string();
  if (!fs::exists(folder / "index.json")) return false;
  const json index = store::read_json(folder / "index.json");
  store::ImageGrid preview{{"untouched base", "this"}, {}, {}, own};
  for (const json& image : index.value("images", json::array())) {
    const std::string name = std::to_string(image.value("sample_id", std::uint64_t{0})) + ".png";
    if (preview.rows.size() == kPreviewRows || !fs::exists(folder / own / name) ||
        !fs::exists(folder / "base" / name)) {
      continue;
    }
    preview.row_labels.push_back(image.value("caption", ""));
    preview.rows.push_back({store::read_image(folder / "base" / name), store::read_image(folder / own / name)});
  }
  if (preview.rows.empty()) return false;
  const std::int64_t side = preview.rows.front().front().size(0);
  const int scale = static_cast<int>(std::max<std::int64_t>(1, kReadableSide / std::max<std::int64_t>(1, side)));
  store::write_png(file, store::draw_grid(preview, scale));
  return true;
}

/// best.png; an empty path where nothing was drawn. An older trial's picture does not stay.
fs::path write_preview(const Grid& grid, const ResultRow& best) {
  const fs::path file = grid.sweep.output / "best.png";
  if (draw_preview(grid, best, file)) return file;
  std::error_code error;
  std::set<fs::path> samples;
  for (const fs::directory_entry& entry : fs::directory_iterator(best.state.folder / "samples", error)) {
    if (entry.path().extension() == ".png") samples.insert(entry.path());
  }
  if (samples.empty()) {
    fs::remove(file);
    return {};
  }
  store::write_atomically(file, [&](const fs::path& temporary) {
    fs::copy_file(*samples.rbegin(), temporary, fs::copy_options::overwrite_existing);
  });
  return file;
}

std::string line(const std::string& name, const json& value) {
  if (value.is_null()) return "";
  return "| " + name + " | " + (value.is_string() ? value.get<std::string>() : value.dump()) + " |\n";
}

std::string table(const json& entries) {
  std::string text = "| | |\n|---|---|\n";
  for (const auto& [name, value] : entries.items()) text += line(name, value);
  return text + "\n";
}

/// What it is, trained on what, how, and its scores, as Markdown.
std::string readable_card(const json& card, const ResultRow& best) {
  const TrainConfig& config = best.trial->config;
  std::string text = "# " + card.at("file").get<std::string>() + "\n\n";
  text += cat("A ", config.method, " for the base `", config.base.string(), "`, trained by ldmtune on `",
              config.data.string(), "`",
              config.data_options.subset > 0 ? cat(" (", config.data_options.subset, " images)") : "", ". It is trial ",
              best.trial->number, " of the sweep `", card.at("sweep").get<std::string>(), "`, chosen among ",
              card.at("candidates").get<std::int64_t>(), " by the ", card.at("chosen_by").get<std::string>(),
              "; test images chose nothing.\n\n");
  if (card.at("picture").is_string()) {
    text += "![Held-out captions](" + card.at("picture").get<std::string>() + ")\n\n";
  }
  if (config.method == "dreambooth") {
    text += "The file holds what trained. A whole model: `ldmtune export " + card.at("sweep").get<std::string>() + "/" +
            card.at("folder").get<std::string>() + " --format diffusers --output MODEL`.\n\n";
  }
  json how = card.at("options");
  how["train.seed"] = config.train.seed;
  how["optim.learning_rate"] = config.optim.learning_rate;
  how["train.global_batch_size"] = config.train.global_batch_size;
  how["updates"] = best.state.result.value("steps", json());
  text += "## How it was trained\n\n" + table(how) + "Every option: `" + card.at("folder").get<std::string>() +
          "/config.cfg`.\n\n";
  text +=
      "## Scores\n\nMean squared error at fixed noise and timesteps; held-out images chose, test images are "
      "reported.\n\n";
  text += table(card.at("scores"));
  text += "## Files\n\n" + table({{"sha256", card.at("sha256")},
                                  {"base sha256", card.at("base").at("sha256")},
                                  {"dataset sha256", card.at("dataset").at("sha256")}});
  return text;
}

}  // namespace

fs::path export_best(const Grid& grid, const std::vector<ResultRow>& rows) {
  warn_if_not_comparable(rows);
  const ResultRow* best = winner(rows);
  if (best == nullptr) fail(grid.sweep.output.string(), ": no trial is done yet; run `ldmtune sweep ... run` first");
  const std::string name = best->state.result.value("export", "");
  const fs::path source = best->state.folder / name;
  if (name.empty() || !fs::exists(source)) {
    fail(best->state.folder.string(), ": result.json names no export that is there (found '", name,
         "'); write one with `ldmtune export`");
  }
  const fs::path target = grid.sweep.output / ("best" + source.extension().string());
  store::write_atomically(target, [&](const fs::path& temporary) {
    fs::copy_file(source, temporary, fs::copy_options::overwrite_existing);
  });
  json described = card(grid, rows, *best, target);
  const fs::path picture = write_preview(grid, *best);
  described["picture"] = picture.empty() ? json() : json(picture.filename().string());
  store::write_json(grid.sweep.output / "best.json", described);
  store::write_text(grid.sweep.output / "best.md", readable_card(described, *best));
  return target;
}

}  // namespace ldmtune::sweep
