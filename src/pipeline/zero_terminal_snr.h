#pragma once
// noise.rescale_betas_zero_snr: the schedule of a base that is trained, measured or drawn down to pure noise.

#include "model/base_model.h"

namespace ldmtune::pipeline {

/// Changes the base's scheduler as diffusers does where rescale_betas_zero_snr is true: the last timestep holds no
/// signal, and pictures begin there (timestep_spacing "trailing"). Lin et al., "Common Diffusion Noise Schedules and
/// Sample Steps are Flawed". `option` is named where it does not fit. Errors: InputError for a base that predicts the
/// noise, which tells nothing where there is only noise.
void force_zero_terminal_snr(model::BaseModel& base, const char* option);

}  // namespace ldmtune::pipeline
