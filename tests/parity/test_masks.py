"""The masks that `prepare` writes beside the latents are torch's resized ones, averaged over what a latent covers."""

import json
import pathlib
import sys

import h5py
import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "end_to_end"))
from support import BASE, run, small_image_folder  # noqa: E402


def subject(name):
    """A mask for an image: a rectangle that depends on the name."""
    left = 8 + 4 * (sum(name.encode()) % 5)
    mask = np.zeros((64, 64), np.uint8)
    mask[10:50, left : left + 31] = 255
    return mask


def test_masks_are_those_of_the_images(tmp_path):
    images = small_image_folder(tmp_path / "images", 6)
    for image in sorted(images.glob("*.png")):
        size = Image.open(image).size
        Image.fromarray(subject(image.stem)).resize(size, Image.NEAREST).save(images / f"{image.stem}.mask.png")
    run(["prepare", "--base", BASE, "--images", images, "--output", tmp_path / "set", "--mask", "files", "--validation_images", 0,
         "--test_images", 0])
    rows = map(json.loads, (tmp_path / "set/captions.jsonl").read_text().splitlines())
    names = {row["sample_id"]: pathlib.Path(row["source"]).stem for row in rows}
    with h5py.File(tmp_path / "set/part-00000.h5") as file:
        bucket = file["64x64"]
        found = {names[int(sample_id)]: mask for sample_id, mask in zip(bucket["sample_id"], bucket["mask"])}
    assert len(found) == 6
    for name, mask in found.items():
        image = torch.tensor(np.array(Image.open(images / f"{name}.mask.png")), dtype=torch.float32)[None, None]
        resized = torch.nn.functional.interpolate(image, (64, 64), mode="bilinear", antialias=True)
        expected = torch.nn.functional.avg_pool2d(resized, 64 // mask.shape[-1])[0, 0].numpy()
        assert np.abs(mask - expected).max() < 0.51, "whole levels of 255"
        assert mask.min() == 0 and mask.max() == 255
