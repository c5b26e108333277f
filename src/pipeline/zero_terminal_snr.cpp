#include "pipeline/zero_terminal_snr.h"

#include "core/error.h"
#include "diffusion/noise_schedule.h"

namespace ldmtune::pipeline {

void force_zero_terminal_snr(model::BaseModel& base, const char* option) {
  const diffusion::NoiseSchedule schedule(base.scheduler_config);
  if (schedule.prediction_type() == diffusion::PredictionType::epsilon) {
    fail_input("option ", option, ": needs a base that predicts v; ", base.folder.string(),
               " predicts the noise, which tells nothing where there is only noise");
  }
  base.scheduler_config["rescale_betas_zero_snr"] = true;
  base.scheduler_config["timestep_spacing"] = "trailing";  // pictures begin where there is no signal
}

}  // namespace ldmtune::pipeline
