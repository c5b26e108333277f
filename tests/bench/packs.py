#!/usr/bin/env python3
"""What packing buys: trial-steps per CPU-second of `sweep run --pack K` against the same trials one after another.

    tests/bench/packs.py [--pack 8] [--steps 60] [--rounds 3] [--base DIR --images DIR]

The two programs run in turn, several times, on the same trials (layer structure 1,2,1, one learning rate each,
micro-batch 1), each as one process with one thread; printed are the ratios of each round and their median, and the peak
memory of each. Start-up is counted, validation is kept to the ends.
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import tempfile

SOURCE = pathlib.Path(__file__).resolve().parents[2]


def timed(command):
    """CPU seconds and peak memory (MiB) of one process."""
    process = subprocess.Popen(command, env=dict(os.environ, OMP_NUM_THREADS="1"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"failed: {' '.join(map(str, command))}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--pack", type=int, default=8)
    options.add_argument("--steps", type=int, default=60)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--ldmtune", default=SOURCE / "build/ldmtune")
    options.add_argument("--base", default=SOURCE / "datasets/emoji-base")
    options.add_argument("--images", default=SOURCE / "datasets/emoji/pencil")
    asked = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(asked, pathlib.Path(folder))


def measure(asked, folder):
    data = folder / "data"
    subprocess.run([asked.ldmtune, "prepare", "--base", asked.base, "--images", asked.images, "--known_only", "--output", data],
                   check=True, stderr=subprocess.DEVNULL)
    settings = {
        "base": asked.base, "data": data, "sweep.pictures": 0, "hypernetwork.activation": "relu", "validation.steps": 0,
        "validation.max_images": 1, "train.max_train_steps": asked.steps, "train.global_batch_size": 1,
        "train.micro_batch_size": 1, "train.checkpointing_steps": 0,
    }
    rates = " | ".join(f"{0.001 + 0.0001 * i:.4f}" for i in range(asked.pack))
    config = folder / "x.sweep.cfg"
    config.write_text(f"[optim]\nlearning_rate = {rates}\n")
    words = [asked.ldmtune, "sweep", "--config", config, "run"]
    words += [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    ratios, peaks = [], {"packed": 0, "in turn": 0}
    for round_number in range(asked.rounds):
        packed, memory = timed([*words, "--sweep.output", folder / f"p{round_number}", "--pack", str(asked.pack)])
        peaks["packed"] = max(peaks["packed"], memory)
        alone, memory = timed([*words, "--sweep.output", folder / f"a{round_number}"])
        peaks["in turn"] = max(peaks["in turn"], memory)
        ratios.append(alone / packed)
        print(f"round {round_number}: {alone:.1f} CPU-s one after another, {packed:.1f} CPU-s in a pack of {asked.pack}: ratio {ratios[-1]:.2f}", flush=True)
    print(f"trial-steps per CPU-second, packed against one after another: median {statistics.median(ratios):.2f}, "
          f"{min(ratios):.2f} to {max(ratios):.2f} over {asked.rounds} rounds")
    print(f"peak memory: {peaks['packed']:.0f} MiB packed, {peaks['in turn']:.0f} MiB one after another, ratio {peaks['packed'] / peaks['in turn']:.2f}")


if __name__ == "__main__":
    main()
