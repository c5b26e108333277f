"""The pictures that a sweep drew for held-out captions: as data URIs, and their colour saturation."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

# Larger pictures are shrunk to this side, so that a report of many 512-pixel pictures stays a few MB.
_LARGEST_SIDE = 192


def picture_file(sweep_folder: Path, column: str, image: dict) -> Path:
    return Path(sweep_folder) / "pictures" / column / f"{image['sample_id']}.png"


def data_uri(file: Path) -> str | None:
    """The picture inside a URI; None where it is missing or unreadable."""
    try:
        raw = Path(file).read_bytes()
        with Image.open(io.BytesIO(raw)) as picture:
            if max(picture.size) <= _LARGEST_SIDE:
                return "data:image/png;base64," + base64.b64encode(raw).decode()
            shrunk = picture.convert("RGB")
            shrunk.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    except OSError:
        return None
    stream = io.BytesIO()
    shrunk.save(stream, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def saturation(pixels: np.ndarray) -> float:
    """Mean over pixels of HSV's S = (max - min) / max over the channels of uint8 (H, W, 3); black has 0."""
    pixels = np.asarray(pixels, dtype=float)
    highest = pixels.max(axis=-1)
    spread = highest - pixels.min(axis=-1)
    return float(np.divide(spread, highest, out=np.zeros_like(spread), where=highest > 0).mean())


def column_saturation(sweep_folder: Path, column: str, images: list) -> float:
    """Mean saturation of one column's pictures; NaN if a picture is missing."""
    values = []
    for image in images:
        try:
            with Image.open(picture_file(sweep_folder, column, image)) as picture:
                values.append(saturation(np.asarray(picture.convert("RGB"))))
        except OSError:
            return float("nan")
    return float(np.mean(values)) if values else float("nan")
