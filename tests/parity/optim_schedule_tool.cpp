// Prints learning rates for test_optim.py: LEARNING_RATE LR_SCHEDULER WARMUP_STEPS MAX_TRAIN_STEPS COUNT,
// one rate a line for update indices 0 .. COUNT - 1.

#include <cstdio>
#include <exception>
#include <string>

#include "optim/schedule.h"

int main(int argc, char** argv) {
  try {
    if (argc != 6) return 2;
    const ldmtune::optim::LearningRateSchedule schedule(argv[1], argv[2], std::stoll(argv[3]), std::stoll(argv[4]));
    for (std::int64_t update = 0; update < std::stoll(argv[5]); ++update) std::printf("%.17g\n", schedule.at(update));
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
