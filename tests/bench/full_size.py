#!/usr/bin/env python3
"""One update at Stable Diffusion 1.5's full size (random weights), its peak memory beside what `train --plan` says.

    tests/bench/full_size.py --base DIR [--method hypernetwork dreambooth] [--resolution 512] [--work FOLDER]

--base is made where it is not there yet (4 GB of disk; Python then needs torch, diffusers and transformers); so is the
dataset, of two random pictures. Each method runs `ldmtune train` for one update of one sample in fp32 with gradient
checkpointing, without checkpoints before the end, in a folder that is removed afterwards. Peak memory is the process's own
(ru_maxrss). Needs 17 GB free for dreambooth and some minutes of one core for each; not part of CI.
"""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

SOURCE = pathlib.Path(__file__).resolve().parents[2]
COMMON = {
    "train.max_train_steps": 1, "train.global_batch_size": 1, "train.micro_batch_size": 1, "train.gradient_checkpointing": "true",
    "validation.steps": 0, "validation.batch_size": 1, "train.checkpointing_steps": 0,
}


def make_base(folder):
    sys.path.insert(0, str(SOURCE / "tests/parity"))
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from random_bases import SCHEDULE, save_tokenizer
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    levels = 4
    unet = UNet2DConditionModel(cross_attention_dim=768, sample_size=64)
    vae = AutoencoderKL(block_out_channels=(128, 256, 512, 512), layers_per_block=2, down_block_types=("DownEncoderBlock2D",) * levels,
                        up_block_types=("UpDecoderBlock2D",) * levels)
    text = CLIPTextModel(CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12))
    tokenizer = CLIPTokenizer.from_pretrained(save_tokenizer(folder.with_name(folder.name + ".tokenizer"), "<|endoftext|>"))
    StableDiffusionPipeline(vae, text, tokenizer, unet, DDIMScheduler(clip_sample=False, **SCHEDULE), None, None,
                            requires_safety_checker=False).save_pretrained(folder)


def make_data(ldmtune, base, folder, resolution):
    import numpy as np
    from PIL import Image

    images = folder / "images"
    images.mkdir()
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 256, (resolution, resolution, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"picture {i}.png")
    subprocess.run([ldmtune, "prepare", "--base", base, "--images", images, "--output", folder / "data", "--resolution", str(resolution),
                    "--batch_size", "1", "--validation_images", "0", "--test_images", "0"], check=True)
    return folder / "data"


def measured(command):
    """Seconds and peak bytes of one process."""
    begin = time.monotonic()
    process = subprocess.Popen(command, env=dict(os.environ, OMP_NUM_THREADS="1"))
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"failed: {' '.join(map(str, command))}")
    return time.monotonic() - begin, usage.ru_maxrss * 1024


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--base", type=pathlib.Path, required=True)
    options.add_argument("--method", nargs="+", default=["hypernetwork", "dreambooth"])
    options.add_argument("--resolution", type=int, default=512)
    options.add_argument("--ldmtune", type=pathlib.Path, default=SOURCE / "build/ldmtune")
    options.add_argument("--work", type=pathlib.Path, help="folder on a disk with 12 GB for the last checkpoint")
    asked = options.parse_args()
    if not asked.base.exists():
        make_base(asked.base)
    with tempfile.TemporaryDirectory(dir=asked.work) as folder:
        folder = pathlib.Path(folder)
        data = make_data(asked.ldmtune, asked.base, folder, asked.resolution)
        for method in asked.method:
            settings = {**COMMON, "method": method, "base": asked.base, "data": data, "output": folder / "run"}
            words = [str(word) for name, value in settings.items() for word in (f"--{name}", value)]
            plan = subprocess.run([asked.ldmtune, "train", "--plan", *words], check=True, capture_output=True, text=True).stdout
            print(plan, flush=True)
            planned = float(re.search(r"total at the peak +([\d,.]+) MiB", plan)[1].replace(",", "")) / 1024
            seconds, peak = measured([asked.ldmtune, "train", *words])
            peak /= 2**30
            print(f"{method}: measured {peak:.2f} GiB, planned {planned:.2f} GiB ({planned / peak - 1:+.1%}), {seconds:.0f} s", flush=True)
            shutil.rmtree(folder / "run")


if __name__ == "__main__":
    main()
