#include "core/options.h"

#include <algorithm>
#include <sstream>
#include <stdexcept>

#include "core/error.h"
#include "core/option_text.h"

namespace ldmtune {
namespace {

/// What peers call it -> what we call it.
const std::map<std::string, std::string>& peer_names() {
  static const std::map<std::string, std::string> names{
      {"train_batch_size",
       "train.micro_batch_size (samples that go through the model together) and train.global_batch_size (samples of "
       "one update)"},
      {"gradient_accumulation_steps",
       "train.global_batch_size (accumulation follows from it, micro_batch_size and the number of ranks)"},
      {"batch_size", "train.global_batch_size"},
      {"pretrained_model_name_or_path", "base"},
      {"train_data_dir", "data (a folder written by ldmtune prepare)"},
      {"output_dir", "output"},
      {"network_dim", "lora.rank; for hypernetworks hypernetwork.layer_structure"},
      {"network_alpha", "lora.alpha"},
      {"lora_alpha", "lora.alpha"},
      {"snr_gamma", "loss.snr_gamma"},
      {"min_snr_gamma", "loss.snr_gamma"},
      {"noise_offset", "noise.offset"},
      {"zero_terminal_snr", "noise.rescale_betas_zero_snr"},
      {"weighting_scheme", "noise.timestep_sampling"},
      {"logit_mean", "noise.timestep_mean"},
      {"logit_std", "noise.timestep_std"},
      {"loss_type", "loss.loss_type"},
      {"masked_loss", "loss.masked"},
      {"optimizer_type", "optim.optimizer"},
      {"token_string", "textual_inversion.placeholder_token"},
      {"init_word", "textual_inversion.initializer_text"},
      {"num_vectors_per_token", "textual_inversion.num_vectors"},
      {"learnable_property", "caption.template (jobs/templates holds object.txt and look.txt)"},
      {"max_train_epochs", "train.num_train_epochs"},
      {"early_stop_eps", "stop.threshold"},
      {"early_stop_patience", "stop.window"},
      {"num_repeats", "data.weights (of a dataset), or \"repeats\" in its metadata.jsonl (of an image)"},
      {"save_every_n_steps", "train.checkpointing_steps"},
      {"resume", "train.resume_from_checkpoint"},
      {"validation_prompt", "sample.prompts"},
      {"validation_steps", "validation.steps"},
      {"num_validation_images", "sample.heldout_prompts"},
      {"lr", "optim.learning_rate"},
      {"use_dropout", "hypernetwork.dropout_structure"},
      {"add_layer_norm", "hypernetwork.layer_norm"},
      {"activation_func", "hypernetwork.activation"},
      {"weight_init", "hypernetwork.weight_init"},
      {"clip_grad_norm", "train.max_grad_norm"},
      {"shuffle_caption", "caption.shuffle_tags"},
      {"shuffle_tags", "caption.shuffle_tags"},
      {"caption_tag_dropout_rate", "caption.tag_dropout"},
      {"tag_drop_out", "caption.tag_dropout"},
      {"caption_dropout_rate", "caption.dropout"},
      {"max_token_length", "caption.max_chunks (75 tokens each)"},
      {"weighted_captions", "caption.weights"},
  };
  return names;
}

std::size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row[b.size()];
}

std::string section_of(const std::string& name) {
  const std::size_t dot = name.find('.');
  return dot == std::string::npos ? "" : name.substr(0, dot);
}

std::string without_section(const std::string& name) {
  const std::size_t dot = name.find('.');
  return dot == std::string::npos ? name : name.substr(dot + 1);
}

std::string wrapped(const std::string& text, std::size_t indent, std::size_t width) {
  std::istringstream words(text);
  std::string word, line, out;
  while (words >> word) {
    if (!line.empty() && line.size() + 1 + word.size() > width - indent) {
      out += std::string(indent, ' ') + line + '\n';
      line.clear();
    }
    line += (line.empty() ? "" : " ") + word;
  }
  return out + std::string(indent, ' ') + line + '\n';
}

}  // namespace

template <class T>
void OptionTable::add(const std::string& name, T& target, const std::string& unit, const std::string& help) {
  Option option;
  option.unit = unit;
  option.help = help;
  option.parse = [&target](const std::string& text) { parse_value(text, target); };
  option.print = [&target] { return print_value(target); };
  option.default_text = print_value(target);
  add_option(name, std::move(option));
}
template void OptionTable::add(const std::string&, bool&, const std::string&, const std::string&);
template void OptionTable::add(const std::string&, std::int64_t&, const std::string&, const std::string&);
template void OptionTable::add(const std::string&, std::uint64_t&, const std::string&, const std::string&);
template void OptionTable::add(const std::string&, double&, const std::string&, const std::string&);
template void OptionTable::add(const std::string&, std::string&, const std::string&, const std::string&);
template void OptionTable::add(const std::string&, std::filesystem::path&, const std::string&, const std::string&);
template void OptionTable::add(const std::string&, PathList&, const std::string&, const std::string&);
template void OptionTable::add(const std::string&, std::vector<double>&, const std::string&, const std::string&);
template void OptionTable::add(const std::string&, std::vector<std::string>&, const std::string&, const std::string&);

void OptionTable::add_option(const std::string& name, Option option) {
  if (!options_.emplace(name, std::move(option)).second) throw std::logic_error("option declared twice: " + name);
  order_.push_back(name);
}

void OptionTable::set(const OptionSetting& setting) {
  const auto found = options_.find(setting.name);
  if (found == options_.end()) fail_unknown(setting);
  try {
    found->second.parse(setting.text);
  } catch (const std::invalid_argument& error) {
    fail_input("option ", setting.name, " (", setting.where, "): expected ", error.what(), ", found '", setting.text,
               "'");
  }
  found->second.is_set = true;
}

void OptionTable::set(const std::vector<OptionSetting>& settings) {
  for (const OptionSetting& setting : settings) set(setting);
}

void OptionTable::set_default(const std::string& name, const std::string& text) {
  Option& option = options_.at(name);
  if (option.is_set) return;
  option.parse(text);
  option.default_text = option.print();
}

bool OptionTable::is_set(const std::string& name) const { return options_.at(name).is_set; }
std::string OptionTable::text_of(const std::string& name) const { return options_.at(name).print(); }
std::vector<std::string> OptionTable::names() const { return order_; }

void OptionTable::fail_unknown(const OptionSetting& setting) const {
  const std::string where = "unknown option '" + setting.name + "' (" + setting.where + ")";
  const auto peer = peer_names().find(without_section(setting.name));
  if (peer != peer_names().end()) fail_input(where, ": ldmtune calls it ", peer->second);
  std::string nearest;
  std::size_t best = ~std::size_t{0};
  for (const std::string& name : order_) {
    // A name given without its section is as near as its last part is.
    const std::size_t distance =
        std::min(edit_distance(setting.name, name), edit_distance(setting.name, without_section(name)));
    if (distance < best) best = distance, nearest = name;
  }
  if (nearest.empty()) fail_input(where, ": this command takes no options");
  fail_input(where, ": the nearest is '", nearest, "'; see --help for all");
}

std::string OptionTable::echo(bool comments) const {
  std::string out, section;
  // Top-level options must come before the first [section].
  std::vector<std::string> order = order_;
  std::stable_sort(order.begin(), order.end(),
                   [](const auto& a, const auto& b) { return section_of(a).empty() > section_of(b).empty(); });
  for (const std::string& name : order) {
    const Option& option = options_.at(name);
    if (section_of(name) != section) {
      section = section_of(name);
      out += "\n[" + section + "]\n";
    }
    if (comments) out += "# " + option.help + (option.unit.empty() ? "" : " (" + option.unit + ")") + "\n";
    out += without_section(name) + " = " + option.print() + "\n";
  }
  return out;
}

std::string OptionTable::help(const std::vector<std::string>& sections) const {
  std::string out;
  for (const std::string& name : order_) {
    if (!sections.empty() && std::find(sections.begin(), sections.end(), section_of(name)) == sections.end()) continue;
    const Option& option = options_.at(name);
    out += "  --" + name + (option.unit.empty() ? "" : " <" + option.unit + ">");
    out += option.default_text.empty() ? "\n" : "   [" + option.default_text + "]\n";
    out += wrapped(option.help, 6, 100);
  }
  return out;
}

}  // namespace ldmtune
