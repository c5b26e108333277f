#include "cli/convert.h"

#include <ATen/core/grad_mode.h>

#include "adapt/hypernetwork.h"
#include "adapt/lora_file.h"
#include "adapt/textual_inversion_file.h"
#include "cli/export_base.h"
#include "core/error.h"
#include "model/base_model.h"
#include "model/ldm_file.h"

namespace ldmtune::cli {
namespace {

namespace fs = std::filesystem;
using adapt::JobOptions;

/// `first`, then what describes it.
JobOptions joined(JobOptions first, const JobOptions& rest) {
  first.insert(first.end(), rest.begin(), rest.end());
  return first;
}

JobOptions convert_hypernetwork(const Conversion& conversion) {
  check_hypernetwork_output(conversion.format, conversion.output);
  const adapt::HypernetworkFile read = adapt::read_hypernetwork(conversion.given);
  read.network->export_file(*read.arena, conversion.output,
                            {conversion.name.empty() ? read.name : conversion.name, read.step, read.base_sha256,
                             read.base_name, conversion.inference});
  return joined({{"method", "hypernetwork"}, {"hypernetwork.init_from", conversion.output.string()}},
                adapt::job_options(read.network->spec()));
}

/// The word that `token` names, or the file's only one under that name; all where it is empty.
std::vector<adapt::Embedding> chosen(std::vector<adapt::Embedding> embeddings, const Conversion& conversion) {
  if (conversion.token.empty()) return embeddings;
  if (embeddings.size() == 1) embeddings.front().token = conversion.token;
  std::string known;
  for (const adapt::Embedding& embedding : embeddings) {
    if (embedding.token == conversion.token) return {embedding};
    known += (known.empty() ? "" : ", ") + embedding.token;
  }
  fail_input("option token: ", conversion.given.string(), " holds ", known, ", found '", conversion.token, "'");
}

JobOptions convert_embeddings(const Conversion& conversion) {
  const auto embeddings = chosen(adapt::read_embeddings(conversion.given), conversion);
  adapt::write_embeddings(conversion.output, adapt::parse_embedding_format(conversion.format), embeddings);
  if (embeddings.size() != 1) return {{"method", "textual_inversion"}};
  return {{"method", "textual_inversion"},
          {"textual_inversion.placeholder_token", embeddings.front().token},
          {"textual_inversion.initial_embedding", conversion.output.string()}};
}

JobOptions convert_lora(const Conversion& conversion) {
  const adapt::LoraLayout layout = adapt::parse_lora_layout(conversion.format);
  expect_safetensors(conversion.output);
  if (conversion.base.empty()) {
    fail_input("option base is missing: ", conversion.given.string(),
               " is a LoRA, whose layers only a base can name; give --base with one of its kind");
  }
  const auto sites = sites_of(conversion.base, conversion.base_options, conversion.variant);
  const adapt::LoraFile read = adapt::read_lora(conversion.given, sites);
  adapt::write_lora(
      *read.lora, *read.arena, conversion.output, layout,
      {conversion.name.empty() ? read.name : conversion.name, read.step, read.base_sha256, read.base_name});
  return joined({{"method", "lora"}, {"lora.init_from", conversion.output.string()}},
                adapt::job_options(*read.lora, sites));
}

JobOptions convert_base(const Conversion& conversion) {
  export_base(conversion.given, conversion.base_options, conversion.variant, conversion.format, conversion.dtype,
              conversion.output);
  return {{"method", "dreambooth"}, {"base", conversion.output.string()}};
}

}  // namespace

void check_hypernetwork_output(const std::string& format, const fs::path& output) {
  if (format != "a1111") {
    fail_input("option format: expected a1111 (for hypernetworks the one there is), found \"", format, "\"");
  }
  if (output.extension() != ".pt" && output.extension() != ".safetensors") {
    fail_input("option output: expected a file name ending in .pt or .safetensors, found ", output.string());
  }
}

void expect_safetensors(const fs::path& output) {
  if (output.extension() == ".safetensors") return;
  fail_input("option output: expected a file name ending in .safetensors, found ", output.string());
}

std::vector<adapt::LoraSite> sites_of(const fs::path& base, const BaseConfig& config, const std::string& variant) {
  if (fs::is_directory(base)) return adapt::lora_sites(base);
  if (!fs::is_regular_file(base)) fail_input("option base: ", base.string(), " is not there");
  return adapt::lora_sites(model::read_base_parts(base, model::options_of(config, variant)));
}

JobOptions convert(FileKind kind, const Conversion& conversion) {
  const at::NoGradGuard no_grad;
  switch (kind) {
    case FileKind::hypernetwork:
      return convert_hypernetwork(conversion);
    case FileKind::embedding:
      return convert_embeddings(conversion);
    case FileKind::lora:
      return convert_lora(conversion);
    case FileKind::base:
      return convert_base(conversion);
    case FileKind::vae:
      fail_input(conversion.given.string(), ": a VAE alone; give it as base.vae beside a base");
    case FileKind::weights:
      fail_input(conversion.given.string(),
                 ": weights that dreambooth trained: dreambooth.init_from goes on from them, ",
                 "ldmtune export of the run or checkpoint makes a whole model of them");
    case FileKind::other:
      break;
  }
  fail_input(conversion.given.string(),
             ": expected a hypernetwork, a textual inversion embedding, a LoRA or a whole model; ldmtune inspect says "
             "what it holds");
}

}  // namespace ldmtune::cli
