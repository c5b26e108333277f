"""Pixels equal PIL's: PNG exactly, JPEG and lossy WebP within two levels; damaged and foreign images are refused."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from files_support import refused, succeed
from safetensors.torch import load_file, save_file


def read_image(file: Path) -> np.ndarray:
    out = file.with_suffix(".safetensors")
    succeed("read_image", file, out)
    return load_file(out)["image"].numpy()


def picture(mode: str = "RGB") -> Image.Image:
    """Smooth colours with edges, as photographs have; some transparency."""
    y, x = np.mgrid[0:45, 0:70]
    channels = [x * 3.6, y * 5.6, 127 + 100 * np.sin(x / 7) * np.cos(y / 5), np.where(x > 35, 255, x * 7)]
    rgba = np.stack(channels, 2).clip(0, 255).astype(np.uint8)
    rgba[10:20, 10:30, :3] = 255 - rgba[10:20, 10:30, :3]
    return Image.fromarray(rgba, "RGBA").convert(mode)


def as_pil_decodes(image: Image.Image) -> np.ndarray:
    image = ImageOps.exif_transpose(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image)
        image = white
    return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P"])
def test_opaque_png_pixels_are_exactly_pils(tmp_path, mode):
    picture(mode).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), as_pil_decodes(Image.open(tmp_path / "a.png")))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_png_pixels_are_pils_over_white(tmp_path, mode):
    picture(mode).save(tmp_path / "a.png")
    expected = as_pil_decodes(Image.open(tmp_path / "a.png")).astype(int)
    assert np.abs(read_image(tmp_path / "a.png") - expected).max() <= 1


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_pixels_are_pils_within_two_levels(tmp_path, mode, progressive):
    picture("RGB").convert(mode).save(tmp_path / "a.jpg", quality=90, progressive=progressive)
    expected = as_pil_decodes(Image.open(tmp_path / "a.jpg")).astype(int)
    assert np.abs(read_image(tmp_path / "a.jpg") - expected).max() <= 2


@pytest.mark.parametrize("mode,lossless", [("RGB", False), ("RGB", True), ("RGBA", True)])
def test_webp_pixels_are_pils_within_two_levels(tmp_path, mode, lossless):
    picture(mode).save(tmp_path / "a.webp", lossless=lossless, exact=True)
    expected = as_pil_decodes(Image.open(tmp_path / "a.webp")).astype(int)
    assert np.abs(read_image(tmp_path / "a.webp") - expected).max() <= (1 if lossless else 2)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, ending, orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    picture().save(tmp_path / f"a.{ending}", exif=exif, **({"lossless": True} if ending == "webp" else {}))
    expected = as_pil_decodes(Image.open(tmp_path / f"a.{ending}")).astype(int)
    read = read_image(tmp_path / f"a.{ending}")
    assert read.shape == expected.shape
    assert np.abs(read - expected).max() <= 2


def test_our_png_opens_in_pil_with_its_text(tmp_path):
    image = torch.from_numpy(np.array(picture()))
    save_file({"image": image}, tmp_path / "a.safetensors")
    succeed("write_png", tmp_path / "a.safetensors", tmp_path / "a.png")
    opened = Image.open(tmp_path / "a.png")
    assert opened.text == {"parameters": "a cat, Steps: 20", "title": "Kätzchen"}
    assert np.array_equal(np.asarray(opened), image.numpy())


def test_damaged_and_foreign_images_are_refused(tmp_path):
    out = tmp_path / "out.safetensors"
    for ending, options in (("jpg", {}), ("jpg", {"progressive": True}), ("png", {}), ("webp", {})):
        buffer = io.BytesIO()
        picture().save(buffer, {"jpg": "JPEG"}.get(ending, ending.upper()), **options)
        whole = buffer.getvalue()
        bad = tmp_path / f"bad.{ending}"
        for part in (1, 2, 9):
            bad.write_bytes(whole[: len(whole) * part // 10])
            refused("read_image", bad, out)
    frames = [picture(), picture().rotate(90)]
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:])
    assert "animation" in refused("read_image", tmp_path / "moving.webp", out)
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    refused("read_image", tmp_path / "moving.gif", out)


def test_a_jpeg_of_endless_scans_is_refused(tmp_path):
    buffer = io.BytesIO()
    picture().save(buffer, "JPEG", progressive=True)
    whole = buffer.getvalue()
    last = whole.rfind(b"\xff\xda")
    (tmp_path / "bad.jpg").write_bytes(whole[:-2] + whole[last:-2] * 10_000 + whole[-2:])
    refused("read_image", tmp_path / "bad.jpg", tmp_path / "out.safetensors")
