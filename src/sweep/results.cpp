#include "sweep/results.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iterator>
#include <limits>
#include <map>
#include <set>
#include <utility>

#include "core/error.h"
#include "core/log.h"
#include "store/files.h"
#include "sweep/plan.h"

namespace ldmtune::sweep {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

/// Column of results.csv and the key of result.json it shows.
struct ScoreColumn {
  const char* column;
  const char* key;
};
constexpr ScoreColumn kScores[] = {
    {"heldout_loss", "heldout_loss"},
    {"base_heldout_loss", "base_heldout_loss"},
    {"best_heldout_loss", "best_heldout_loss"},
    {"best_step", "best_step"},
    {"train_loss", "concept_train_loss"},
    {"adjacent_loss", "adjacent_loss"},
    {"base_adjacent_loss", "base_adjacent_loss"},
    {"adjacent_drift", "adjacent_drift"},
    {"adjacent_trigger_loss", "adjacent_trigger_loss"},
    {"base_adjacent_trigger_loss", "base_adjacent_trigger_loss"},
    {"adjacent_trigger_drift", "adjacent_trigger_drift"},
    {"test_loss", "test_loss"},
    {"base_test_loss", "base_test_loss"},
    {"trainable_parameters", "trainable_parameters"},
    {"export_bytes", "export_bytes"},
    {"steps", "steps"},
    {"training_tflops", "training_tflops"},
    {"seconds", "seconds"},
    {"samples_per_s", "samples_per_s"},
};

std::string csv_field(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + '"';
}

std::string csv_line(const std::vector<std::string>& fields) {
  std::string line;
  for (std::size_t i = 0; i < fields.size(); ++i) line += (i ? "," : "") + csv_field(fields[i]);
  return line + "\r\n";
}

std::string number_text(const json& result, const char* key) {
  const auto found = result.find(key);
  if (found == result.end() || !found->is_number()) return "";
  return found->is_number_integer() ? found->dump() : format_number(found->get<double>());
}

std::string fixed(double value, int digits) {
  if (std::isnan(value)) return "";
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

/// By held-out loss; what was not measured last.
std::pair<bool, double> loss_order(const ResultRow* row) {
  return is_scored(*row) ? std::pair(false, score(*row, "heldout_loss")) : std::pair(true, 0.0);
}

/// The trial of each setting with the lowest held-out loss, the settings by their mean over replicates as the report
/// ranks them; those without a loss are left out.
std::vector<const ResultRow*> best_by_setting(const std::vector<const ResultRow*>& among) {
  struct Setting {
    double sum = 0, count = 0;
    const ResultRow* best = nullptr;
    double mean() const { return sum / count; }
  };
  std::vector<Setting> settings;  // in the order in which they come
  std::map<std::string, std::size_t> places;
  for (const ResultRow* row : among) {
    if (!is_scored(*row)) continue;
    const std::size_t place = places.try_emplace(setting_key(*row->trial), settings.size()).first->second;
    if (place == settings.size()) settings.emplace_back();
    Setting& setting = settings[place];
    setting.sum += score(*row, "heldout_loss");
    ++setting.count;
    if (setting.best == nullptr || loss_order(row) < loss_order(setting.best)) setting.best = row;
  }
  std::stable_sort(settings.begin(), settings.end(),
                   [](const Setting& a, const Setting& b) { return a.mean() < b.mean(); });
  std::vector<const ResultRow*> best;
  for (const Setting& setting : settings) best.push_back(setting.best);
  return best;
}

}  // namespace

std::string setting_key(const Trial& trial) {
  std::string key;
  for (const auto& [name, value] : trial.varied) {
    if (name != "train.seed" && name != "data.subset_seed") key += name + '\n' + value + '\n';
  }
  return key;
}

bool is_scored(const ResultRow& row) {
  return row.state.status == TrialStatus::done && std::isfinite(score(row, "heldout_loss"));
}

json scores_of(const json& result) {
  json scores = json::object();
  for (const ScoreColumn& column : kScores) scores[column.column] = result.value(column.key, json());
  return scores;
}

std::vector<ResultRow> read_results(const Grid& grid) {
  std::vector<ResultRow> rows;
  for (const Trial& trial : grid.trials) rows.push_back({&trial, read_state(grid.sweep.output, trial)});
  return rows;
}

double score(const ResultRow& row, const std::string& key) {
  const auto found = row.state.result.find(key);
  if (found == row.state.result.end() || !found->is_number()) return std::numeric_limits<double>::quiet_NaN();
  return found->get<double>();
}

std::string results_csv(const Grid& grid, const std::vector<ResultRow>& rows) {
  std::vector<std::string> head{"trial", "id", "status"};
  for (const VariedOption& option : grid.varied) head.push_back(option.name);
  head.insert(head.end(), {"seed", "subset_seed"});
  for (const ScoreColumn& column : kScores) head.emplace_back(column.column);
  head.insert(head.end(), {"folder", "reason"});
  std::string text = csv_line(head);
  for (const ResultRow& row : rows) {
    std::vector<std::string> fields{std::to_string(row.trial->number), row.trial->id, to_string(row.state.status)};
    for (const auto& [name, value] : row.trial->varied) fields.push_back(row.trial->inactive.count(name) ? "" : value);
    fields.push_back(std::to_string(row.trial->config.train.seed));
    fields.push_back(std::to_string(row.trial->config.data_options.subset_seed));
    for (const ScoreColumn& column : kScores) fields.push_back(number_text(row.state.result, column.key));
    fields.push_back("trials/" + row.state.folder.filename().string());
    fields.push_back(row.state.reason);
    text += csv_line(fields);
  }
  return text;
}

void write_results(const Grid& grid, const std::vector<ResultRow>& rows) {
  store::write_text(grid.sweep.output / "results.csv", results_csv(grid, rows));
}

const ResultRow* winner(const std::vector<ResultRow>& rows) {
  std::map<std::string, std::vector<const ResultRow*>> groups;
  for (const ResultRow& row : rows) {
    if (is_scored(row)) groups[setting_key(*row.trial)].push_back(&row);
  }
  const ResultRow* best = nullptr;
  double best_mean = std::numeric_limits<double>::infinity();
  for (const auto& [key, members] : groups) {
    double mean = 0;
    for (const ResultRow* row : members) mean += score(*row, "heldout_loss") / static_cast<double>(members.size());
    if (mean >= best_mean) continue;
    best_mean = mean;
    best = *std::min_element(members.begin(), members.end(), [](const ResultRow* a, const ResultRow* b) {
      return score(*a, "heldout_loss") < score(*b, "heldout_loss");
    });
  }
  return best;
}

std::vector<const ResultRow*> best_of(const std::vector<const ResultRow*>& among, const ResultRow* winner,
                                      std::int64_t limit) {
  const auto count = static_cast<std::size_t>(limit);
  if (limit == 0 || among.size() <= count) return among;
  std::vector<const ResultRow*> ranked = best_by_setting(among);
  std::vector<const ResultRow*> further = among;
  std::stable_sort(further.begin(), further.end(),
                   [](const ResultRow* a, const ResultRow* b) { return loss_order(a) < loss_order(b); });
  ranked.insert(ranked.end(), further.begin(), further.end());
  if (std::find(among.begin(), among.end(), winner) != among.end()) ranked.insert(ranked.begin(), winner);
  std::set<const ResultRow*> chosen;
  for (auto row = ranked.begin(); chosen.size() < count; ++row) chosen.insert(*row);
  std::vector<const ResultRow*> best;
  std::copy_if(among.begin(), among.end(), std::back_inserter(best),
               [&](const ResultRow* row) { return chosen.count(row) > 0; });
  return best;
}

std::string results_table(const Grid& grid, const std::vector<ResultRow>& rows) {
  std::vector<const ResultRow*> order;
  for (const ResultRow& row : rows) order.push_back(&row);
  const auto key = [](const ResultRow* row) {
    return is_scored(*row) ? score(*row, "heldout_loss") : std::numeric_limits<double>::infinity();
  };
  std::stable_sort(order.begin(), order.end(), [&](const auto* a, const auto* b) { return key(a) < key(b); });
  std::vector<std::string> head{"trial", "id"};
  for (const VariedOption& option : grid.varied) head.push_back(option.name);
  head.insert(head.end(), {"seed", "status", "held-out", "base", "train", "adjacent", "seconds"});
  std::vector<std::vector<std::string>> table{head};
  for (const ResultRow* row : order) {
    std::vector<std::string> line{std::to_string(row->trial->number), row->trial->id};
    for (const auto& [name, value] : row->trial->varied) {
      line.push_back(row->trial->inactive.count(name) ? "–" : value.empty() ? "(none)" : value);
    }
    line.insert(line.end(), {std::to_string(row->trial->config.train.seed), to_string(row->state.status),
                             fixed(score(*row, "heldout_loss"), 4), fixed(score(*row, "base_heldout_loss"), 4),
                             fixed(score(*row, "concept_train_loss"), 4), fixed(score(*row, "adjacent_loss"), 4),
                             fixed(score(*row, "seconds"), 0)});
    table.push_back(line);
  }
  return format_table(table);
}

}  // namespace ldmtune::sweep
