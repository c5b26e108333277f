#!/usr/bin/env python3
"""What packing buys: trial-steps per CPU-second of K trials in one forward against the same trials one after another.

    tests/bench/packs.py [--pack 8] [--steps 60] [--rounds 3] [--base DIR --images DIR]
    tests/bench/packs.py --full_size [--pack 2] [--resolution 256] [--steps 3] [--base DIR]

The first times `sweep run --pack K` and `sweep run` in turn, several times, on the same trials (layer structure 1,2,1,
one learning rate each, micro-batch 1), each as one process with one thread; printed are the ratios of each round and
their median, and the peak memory of each. Start-up is counted, validation is kept to the ends.

The second times single steps with `ldmtune bench --pack K`, packed and one after another in turn in one process, where
the base is compute-bound: Stable Diffusion 1.5's size with random weights, which it writes into a temporary folder
(5 GiB; Python needs torch, diffusers and transformers) unless --base names one to use or to make.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

SOURCE = pathlib.Path(__file__).resolve().parents[2]
EMBEDDED = SOURCE / "datasets/emoji-base"


def timed(command):
    """CPU seconds and peak memory (MiB) of one process."""
    process = subprocess.Popen(command, env=dict(os.environ, OMP_NUM_THREADS="1"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"failed: {' '.join(map(str, command))}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--full_size", action="store_true")
    options.add_argument("--pack", type=int, help="trials (8; with --full_size 2)")
    options.add_argument("--steps", type=int, help="updates of each (60; with --full_size 3)")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--resolution", type=int, default=256, help="pixels, with --full_size")
    options.add_argument("--ldmtune", default=SOURCE / "build/ldmtune")
    options.add_argument("--base", type=pathlib.Path)
    options.add_argument("--images", default=SOURCE / "datasets/emoji/pencil")
    asked = options.parse_args()
    asked.pack = asked.pack or (2 if asked.full_size else 8)
    asked.steps = asked.steps or (3 if asked.full_size else 60)
    with tempfile.TemporaryDirectory() as folder:
        (measure_full_size if asked.full_size else measure)(asked, pathlib.Path(folder))


def measure(asked, folder):
    data, base = folder / "data", asked.base or EMBEDDED
    subprocess.run([asked.ldmtune, "prepare", "--base", base, "--images", asked.images, "--known_only", "--output", data],
                   check=True, stderr=subprocess.DEVNULL)
    settings = {
        "base": base, "data": data, "sweep.pictures": 0, "hypernetwork.activation": "relu", "validation.steps": 0,
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


def make_full_size_base(folder):
    """Stable Diffusion 1.5's networks with random weights; tokenizer and schedule are the embedded base's."""
    sys.path.insert(0, str(SOURCE / "tests/parity"))
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from networks import CROSS_DOWN, CROSS_UP, PLAIN_DOWN, PLAIN_UP, random_text_encoder, randomized
    from transformers import CLIPTextConfig

    folder.mkdir(parents=True)
    for name in ("tokenizer", "scheduler"):
        (folder / name).mkdir()
        for file in (EMBEDDED / name).iterdir():
            (folder / name / file.name).write_bytes(file.read_bytes())
    settings = folder / "tokenizer/tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"model_max_length": 77}))
    randomized(UNet2DConditionModel(
        block_out_channels=(320, 640, 1280, 1280), attention_head_dim=8, cross_attention_dim=768, sample_size=64,
        down_block_types=(CROSS_DOWN,) * 3 + (PLAIN_DOWN,), up_block_types=(PLAIN_UP,) + (CROSS_UP,) * 3)).save_pretrained(folder / "unet")
    randomized(AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, sample_size=512,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4)).save_pretrained(folder / "vae")
    random_text_encoder(CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
        hidden_act="quick_gelu")).save_pretrained(folder / "text_encoder")
    # Last: a folder without it is not taken for a base.
    (folder / "model_index.json").write_bytes((EMBEDDED / "model_index.json").read_bytes())


def measure_full_size(asked, folder):
    base = asked.base or folder / "base"
    if not (base / "model_index.json").exists():
        make_full_size_base(base)
    report = folder / "bench.json"
    subprocess.run([asked.ldmtune, "bench", "--base", base, "--hypernetwork.activation", "relu", "--train.global_batch_size", "1",
                    "--resolution", str(asked.resolution), "--pack", str(asked.pack), "--steps", str(asked.steps), "--warmup", "1",
                    "--json", report], check=True, env=dict(os.environ, OMP_NUM_THREADS="1"))
    found = json.loads(report.read_text())
    print(f"{asked.resolution} pixels, a pack of {asked.pack}, {asked.steps} steps: {found['in_turn_cpu_seconds']:.1f} CPU-s one after another, "
          f"{found['cpu_seconds']:.1f} CPU-s packed: trial-steps per CPU-second {found['pack_ratio']:.3f} times; "
          f"peak memory {found['peak_host_bytes'] / 2**30:.1f} GiB")


if __name__ == "__main__":
    main()
