#pragma once
// Whether captions hold the new words of a textual inversion.

#include "adapt/textual_inversion.h"
#include "train/setup.h"

namespace ldmtune::train {

/// Counts training captions, as the template makes them, by placeholder. Logs a warning where some lack it.
/// Errors: InputError where none holds it, so that its vectors could not train.
void check_captions(const TrialSetup& setup, const adapt::TextualInversion& adapter);

}  // namespace ldmtune::train
