// ldmtune sample: prompts -> a labelled grid of pictures.

#include <iostream>

#include "adapt/merge.h"
#include "cli/commands.h"
#include "cli/sample_adapters.h"
#include "cli/sample_options.h"
#include "cli/sample_output.h"
#include "core/log.h"
#include "core/progress.h"
#include "pipeline/collective.h"
#include "pipeline/device.h"
#include "pipeline/zero_terminal_snr.h"

namespace ldmtune::cli {
namespace {

constexpr const char* kIntroduction =
    "Usage: [mpirun -n RANKS] ldmtune sample --base FOLDER --prompt TEXT --output grid.png [--option VALUE ...]\n\n"
    "Draws pictures: one row a prompt, one column an image, in a labelled grid, as single files, or both. The same "
    "seed\n"
    "gives the same pictures on any number of ranks. A picture's settings stand in the PNG's \"parameters\" text, as\n"
    "AUTOMATIC1111 writes them.\n\n"
    "  ldmtune sample --base datasets/emoji-base --prompt \"rocket on a white background\" --output rocket.png\n"
    "  ldmtune sample --base datasets/emoji-base --prompt \"rocket, pencil | apple, pencil\" --num_images 4 \\\n"
    "                 --hypernetwork best.pt --strengths 0,0.5,1 --guidance_scale 3 --output strengths.png\n"
    "  ldmtune sample --base datasets/emoji-base --prompt \"rocket, pencil\" --lora pencil.safetensors:0.8 --output "
    "l.png\n"
    "  ldmtune sample --base datasets/emoji-base --prompt \"zorp on a green background\" --embedding zorp.pt --output "
    "zorp.png\n"
    "  ldmtune sample --base datasets/emoji-base --prompt \"rocket, pencil\" --hypernetwork best.pt --x "
    "strength=0,0.5,1 "
    "\\\n"
    "                 --y steps=10,20 --z sampler=ddim,euler_ancestral --output plot.png\n\nOptions [default]:\n";

std::vector<pipeline::SharedRequest> make_requests(const SampleOptions& options, const SamplePlan& plan,
                                                   const SampleAdapters& adapters) {
  std::vector<pipeline::SharedRequest> requests;
  for (const SampleCell& cell : plan.cells) {
    pipeline::SharedRequest shared;
    shared.request = {adapters.weighed(options.prompts[cell.prompt], cell.settings),
                      adapters.weighed(options.negative_prompt, cell.settings),
                      cell.settings.seed,
                      cell.index,
                      options.width,
                      options.height,
                      cell.settings.num_inference_steps,
                      cell.settings.guidance_scale,
                      cell.settings.sampler,
                      adapters.in_text_encoder(cell.settings)};
    shared.hooks = adapters.hooks(cell.settings);
    requests.push_back(std::move(shared));
  }
  return requests;
}

}  // namespace

ExitCode run_sample(const Arguments& arguments, comm::Communicator& comm) {
  SampleOptions options;
  OptionTable table;
  declare(table, options);
  if (wants_help(arguments)) {
    if (comm.rank() == 0) std::cout << kIntroduction << table.help();
    return ExitCode::done;
  }
  read_sample_options(arguments, table, options);
  const SamplePlan plan = plan_sample(options);

  model::BaseModel base;
  SampleAdapters adapters;
  pipeline::run_together(comm, [&] {
    const at::Device device = pipeline::choose_device(options.device, comm);
    base = model::load_base_model(options.base, model::options_of(options.base_options, options.variant, device));
    if (options.rescale_betas_zero_snr) pipeline::force_zero_terminal_snr(base, "rescale_betas_zero_snr");
    adapt::merge_into(base, options.base_merge);
    adapters.load(options, plan, base, device, comm.rank() == 0);
  });

  const auto requests = make_requests(options, plan, adapters);
  pipeline::PromptEncoder prompts(
      base, {.max_chunks = options.max_chunks, .weights = options.prompt_weights, .clip_skip = options.clip_skip});
  ProgressBar progress("sample", static_cast<std::int64_t>(requests.size()), "images", comm.rank() == 0);
  const auto results = pipeline::generate_shared(
      base, prompts, requests, comm, [&](std::size_t done) { progress.update(static_cast<std::int64_t>(done)); });
  progress.finish();
  const bool cut = comm.any(prompts.truncated() > 0);
  pipeline::run_together(comm, [&] {
    if (comm.rank() != 0) return;
    if (cut) LDMTUNE_LOG(warning) << "a prompt was too long and was cut; --max_chunks takes more of it";
    write_sample_output(options, plan, base, adapters, requests, results);
  });
  return ExitCode::done;
}

}  // namespace ldmtune::cli
