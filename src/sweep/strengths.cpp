#include "sweep/strengths.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <sstream>

#include "core/log.h"
#include "core/options.h"
#include "pipeline/collective.h"
#include "store/files.h"
#include "train/csv_log.h"
#include "train/strengths.h"

namespace ldmtune::sweep {
namespace {

namespace fs = std::filesystem;
constexpr const char* kTuned = "optim.learning_rate";

fs::path strengths_file(const ResultRow& row) { return row.state.folder / "strengths.csv"; }

/// Cells of a line that strengths_csv wrote.
std::vector<std::string> cells_of(const std::string& line) { return split_list(line, ','); }

/// Whether the trial's measurements are there, at these strengths, and younger than its result.
bool is_measured(const ResultRow& row, const std::vector<double>& strengths) {
  const fs::path file = strengths_file(row), result = row.state.folder / "result.json";
  if (!fs::exists(file) || fs::last_write_time(file) < fs::last_write_time(result)) return false;
  std::vector<std::string> found;
  std::istringstream lines(store::read_text(file));
  std::string line;
  std::getline(lines, line);
  while (std::getline(lines, line)) {
    const std::string strength = line.substr(0, line.find(','));
    if (found.empty() || found.back() != strength) found.push_back(strength);
  }
  std::vector<std::string> wanted;
  for (const double strength : strengths) wanted.push_back(format_number(strength));
  return found == wanted;
}

struct Sums {
  std::int64_t images = 0, with_drift = 0;
  double loss = 0, drift = 0;
};

/// (strength, kind) in the file's order, with the sums over images.
std::vector<std::pair<std::pair<std::string, std::string>, Sums>> sums_of(const fs::path& file) {
  std::vector<std::pair<std::pair<std::string, std::string>, Sums>> found;
  std::istringstream lines(store::read_text(file));
  std::string line;
  std::getline(lines, line);
  while (std::getline(lines, line)) {
    const std::vector<std::string> cells = cells_of(line);
    if (cells.size() != 6) fail_input(file.string(), ": expected 6 columns, found '", line, "'; remove it");
    const std::pair key{cells[0], cells[1]};
    if (found.empty() || found.back().first != key) found.push_back({key, {}});
    Sums& sums = found.back().second;
    ++sums.images;
    sums.loss += std::strtod(cells[4].c_str(), nullptr);
    if (!cells[5].empty()) ++sums.with_drift, sums.drift += std::strtod(cells[5].c_str(), nullptr);
  }
  return found;
}

void append_line(std::string& text, const std::vector<std::string>& cells) {
  for (std::size_t i = 0; i < cells.size(); ++i) text += (i ? "," : "") + train::csv_field(cells[i]);
  text += "\r\n";
}

}  // namespace

std::vector<const ResultRow*> tuned_winners(const std::vector<ResultRow>& rows) {
  std::map<std::string, std::vector<ResultRow>> groups;
  std::vector<std::string> order;
  for (const ResultRow& row : rows) {
    std::string key;
    for (const auto& [name, value] : row.trial->varied) {
      if (name != kTuned && name != "train.seed" && name != "data.subset_seed") key += name + '\n' + value + '\n';
    }
    if (groups.count(key) == 0) order.push_back(key);
    groups[key].push_back(row);
  }
  std::vector<const ResultRow*> winners;
  for (const std::string& key : order) {
    const ResultRow* best = winner(groups.at(key));
    if (best == nullptr) continue;
    winners.push_back(&*std::find_if(rows.begin(), rows.end(), [&](const auto& row) { return row.trial == best->trial; }));
  }
  return winners;
}

ExitCode measure_winners(const Grid& grid, const std::vector<ResultRow>& rows, comm::Communicator& comm) {
  if (grid.sweep.strengths.empty()) return ExitCode::done;
  const std::vector<double> strengths = train::parse_strengths(grid.sweep.strengths, "sweep.strengths");
  for (const ResultRow* row : tuned_winners(rows)) {
    // As rank 0 sees it: other ranks must not look at files that it is changing.
    const bool known = pipeline::root_gives(
                           comm, [&] { return std::string(is_measured(*row, strengths) ? "yes" : "no"); }) == "yes";
    if (known) continue;
    LDMTUNE_LOG(info) << "trial " << row->trial->number << " (" << row->trial->id << ") at strengths "
                      << grid.sweep.strengths;
    const auto losses = train::measure_strengths(row->state.folder, strengths, {}, comm);
    if (losses.empty()) return ExitCode::interrupted;
    pipeline::root_gives(comm, [&] {
      store::write_text(strengths_file(*row), train::strengths_csv(losses));
      return std::string();
    });
  }
  return ExitCode::done;
}

std::string strengths_table_csv(const Grid& grid, const std::vector<ResultRow>& rows) {
  std::string text;
  std::vector<std::string> head{"trial", "id"};
  for (const VariedOption& option : grid.varied) head.push_back(option.name);
  head.insert(head.end(), {"seed", "strength", "kind", "images", "loss", "drift"});
  for (const ResultRow* row : tuned_winners(rows)) {
    if (!fs::exists(strengths_file(*row))) continue;
    if (text.empty()) append_line(text, head);
    for (const auto& [key, sums] : sums_of(strengths_file(*row))) {
      std::vector<std::string> cells{std::to_string(row->trial->number), row->trial->id};
      for (const auto& [name, value] : row->trial->varied) cells.push_back(row->trial->inactive.count(name) ? "" : value);
      const auto mean = [](double sum, std::int64_t count) {
        return count == 0 ? std::string() : format_number(sum / static_cast<double>(count));
      };
      cells.insert(cells.end(), {std::to_string(row->trial->config.train.seed), key.first, key.second,
                                 std::to_string(sums.images), mean(sums.loss, sums.images),
                                 mean(sums.drift, sums.with_drift)});
      append_line(text, cells);
    }
  }
  return text;
}

}  // namespace ldmtune::sweep
