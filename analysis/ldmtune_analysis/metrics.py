"""Sample metrics of the drawn pictures: colour saturation always; CLIP-T, CLIP-I, DINO and KID where local model
folders are given (transformers and torchmetrics compute them; nothing is downloaded).

CLIP-T: cosine of picture and caption. CLIP-I, DINO: cosine of picture and real image. KID: squared polynomial distance
between the features (DINO's, else CLIP's) of pictures and real images.
"""

from __future__ import annotations

import json
import warnings
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from . import html
from .pictures import column_saturation, picture_file
from .runs import Sweep, read_json

MEASURED_TRIALS = 24
_FILE = Path("pictures") / "metrics.json"
_METRICS = {
    "clip_t": ("CLIP-T ↑", 3),
    "clip_i": ("CLIP-I ↑", 3),
    "dino": ("DINO ↑", 3),
    "kid": ("KID ↓", 4),
    "saturation": ("saturation", 2),
}


class Clip:
    """A CLIP model's folder (diffusers' or transformers' layout, with its preprocessor and tokenizer)."""

    def __init__(self, folder):
        from transformers import AutoProcessor, CLIPModel

        self.model = CLIPModel.from_pretrained(folder, local_files_only=True).eval()
        self.processor = AutoProcessor.from_pretrained(folder, local_files_only=True)

    def images(self, pictures: list) -> np.ndarray:
        inputs = self.processor(images=pictures, return_tensors="pt")
        return _unit(_pooled(_without_gradient(self.model.get_image_features, **inputs)))

    def texts(self, captions: list) -> np.ndarray:
        inputs = self.processor(text=captions, return_tensors="pt", padding=True, truncation=True)
        return _unit(_pooled(_without_gradient(self.model.get_text_features, **inputs)))


class Dino:
    """A DINO or DINOv2 model's folder; a picture's feature is that of the class token."""

    def __init__(self, folder):
        from transformers import AutoImageProcessor, AutoModel

        self.model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
        self.processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)

    def images(self, pictures: list) -> np.ndarray:
        inputs = self.processor(images=pictures, return_tensors="pt")
        return _unit(_without_gradient(self.model, **inputs).last_hidden_state[:, 0])


def _without_gradient(function, **inputs):
    import torch

    with torch.no_grad():
        return function(**inputs)


def _pooled(output):
    """Newer transformers return an output object, older ones the tensor itself."""
    return getattr(output, "pooler_output", output)


def _unit(features) -> np.ndarray:
    values = np.asarray(features.float(), dtype=float)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def kernel_distance(real: np.ndarray, drawn: np.ndarray) -> float:
    """KID of two sets of features by torchmetrics, over all pairs."""
    import torch
    from torchmetrics.image.kid import KernelInceptionDistance

    count = min(len(real), len(drawn))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of memory: a sweep's pictures are few
        metric = KernelInceptionDistance(feature=torch.nn.Identity(), subsets=1, subset_size=count)
    metric.update(torch.as_tensor(real[:count]), real=True)
    metric.update(torch.as_tensor(drawn[:count]), real=False)
    return float(metric.compute()[0])


def measure_samples(sweep: Sweep, clip=None, dino=None) -> Path:
    """Writes pictures/metrics.json of a sweep: the base, the real images and the first trials by rank.

    Errors: ValueError if no pictures were drawn; ImportError naming what a metric needs.
    """
    if not sweep.pictures or not sweep.pictures.get("images"):
        raise ValueError(
            f"{sweep.folder}: no pictures; sweep with sweep.pictures above 0, or run `ldmtune sweep ... collect`"
        )
    models = {"clip": Clip(clip) if clip else None, "dino": Dino(dino) if dino else None}
    images = sweep.pictures["images"]
    captions = [image["caption"] for image in images]
    texts = models["clip"].texts(captions) if clip else None
    real = _features(sweep, "real", images, models)
    ranked = [configuration.exported.name for configuration in sweep.configurations[:MEASURED_TRIALS]]
    columns = {}
    for column in sweep.pictures["columns"]:
        if column["kind"] != "trial" or column["name"] in ranked:
            own = _features(sweep, column["name"], images, models)
            columns[column["name"]] = _measure(sweep, column["name"], images, own, real, texts)
    content = {"format": "ldmtune-sample-metrics", "version": 1, "images": len(images), "columns": columns}
    content["models"] = {"clip": str(clip) if clip else None, "dino": str(dino) if dino else None}
    file = sweep.folder / _FILE
    partial = file.with_name(file.name + ".partial")
    partial.write_text(json.dumps(content, indent=1), encoding="utf-8")
    partial.replace(file)
    return file


def _features(sweep: Sweep, column: str, images: list, models: dict) -> dict:
    """Features of a column's pictures by model; empty where a picture is missing."""
    files = [picture_file(sweep.folder, column, image) for image in images]
    if not any(models.values()) or not all(file.is_file() for file in files):
        return {}
    pictures = [Image.open(file).convert("RGB") for file in files]
    return {name: model.images(pictures) for name, model in models.items() if model}


def _measure(sweep: Sweep, column: str, images: list, own: dict, real: dict, texts) -> dict:
    found = {"saturation": column_saturation(sweep.folder, column, images)}
    if "clip" in own:
        found["clip_t"] = float((own["clip"] * texts).sum(1).mean())
    for model, name in (("clip", "clip_i"), ("dino", "dino")):
        if model in own and model in real:
            found[name] = float((own[model] * real[model]).sum(1).mean())
    features = "dino" if "dino" in own else "clip"
    if features in own and features in real and len(images) > 1:
        found["kid"] = kernel_distance(real[features], own[features])
    return found


def metrics_section(sweep: Sweep, configurations: list) -> str:
    """The table of sample metrics, or how to have them measured; empty without pictures."""
    if not sweep.pictures or not sweep.pictures.get("images"):
        return ""
    command = f"<code>python -m ldmtune_analysis metrics {escape(sweep.title)} --clip DIR --dino DIR</code>"
    if not (sweep.folder / _FILE).is_file():
        note = f"Not measured. {command} adds them from local model folders."
        return html.section("Sample metrics (CLIP-T, CLIP-I, DINO, KID)", "", note)
    measured = read_json(sweep.folder / _FILE)
    columns, models = measured["columns"], measured["models"]
    names = {configuration.exported.name: configuration.label for configuration in configurations[:MEASURED_TRIALS]}
    names = {"base": "untouched base", **names, "real": "real images", "roundtrip": "VAE round trip"}
    metrics = [key for key in _METRICS if any(key in column for column in columns.values())]
    rows = []
    for name, label in names.items():
        if name in columns:
            cells = [html.number(columns[name].get(key), _METRICS[key][1]) for key in metrics]
            rows.append(("base" if name in ("base", "real", "roundtrip") else "", [escape(label), *cells]))
    said = [f"{kind.upper()} <code>{escape(path)}</code>" for kind, path in models.items() if path]
    absent = [kind.upper() for kind, path in models.items() if not path]
    note = f"Over {measured['images']} captions. " + ("Models: " + ", ".join(said) + ". " if said else "")
    note += f"Not measured for want of a model: {', '.join(absent)}. " if absent else ""
    return html.section("Sample metrics", html.table(["<<", *[_METRICS[key][0] for key in metrics]], rows), note)
