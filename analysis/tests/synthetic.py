"""Sweep folders as ldmtune writes them, with known effects: no training, no model."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

CAPTIONS = ["red apple", "cat face", "sailboat", "mushroom", "rocket", "umbrella", "hot beverage", "snowman"]
STRUCTURES = ["1,2,1", "1,2,4,2,1"]
BASE_LOSS = 0.22


class _FakeStorage:
    def __init__(self, array, key):
        self.array, self.key = array, key


class _FakeTensor:
    """Pickles as torch.save writes a float32 tensor."""

    def __init__(self, array, key):
        self.array, self.key = np.ascontiguousarray(array, dtype="<f4"), key

    def __reduce__(self):
        size = self.array.shape
        stride = tuple(step // 4 for step in self.array.strides)
        return _rebuild_tensor_v2, (_FakeStorage(self.array, self.key), 0, size, stride, False, {})


def _rebuild_tensor_v2(*_args):
    raise AssertionError("only written, never called")


class FloatStorage:
    pass


# Globals are pickled by module and name: these stand for torch's.
_rebuild_tensor_v2.__module__ = "torch._utils"
FloatStorage.__module__ = "torch"


class _TorchPickler(pickle._Pickler):
    """The pure-Python pickler can be told to write a global that is not importable here."""

    def persistent_id(self, value):
        if isinstance(value, _FakeStorage):
            return ("storage", FloatStorage, value.key, "cpu", value.array.size)
        return None

    def save_global(self, value, name=None):
        if value in (_rebuild_tensor_v2, FloatStorage):
            self.write(pickle.GLOBAL + f"{value.__module__}\n{value.__name__}\n".encode())
            self.memoize(value)
        else:
            super().save_global(value, name)

    dispatch = dict(pickle._Pickler.dispatch)
    dispatch[type] = save_global
    dispatch[type(_rebuild_tensor_v2)] = save_global


def write_torch_zip(file: Path, content, arrays: dict, corrupt: str | None = None) -> None:
    """A zip as torch.save writes it; `arrays` are the storages by key."""
    import io

    stream = io.BytesIO()
    _TorchPickler(stream, protocol=2).dump(content)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{file.stem}/data.pkl", stream.getvalue())
        for key, array in arrays.items():
            raw = np.ascontiguousarray(array, dtype="<f4").tobytes()
            archive.writestr(f"{file.stem}/data/{key}", raw[:-4] if corrupt == key else raw)
        archive.writestr(f"{file.stem}/version", "3\n")


def write_hypernetwork(file: Path, bad: float | None = None) -> None:
    rng = np.random.default_rng(0)
    arrays: dict = {}

    def tensor(*shape):
        array = rng.normal(size=shape)
        if bad is not None:
            array.flat[0] = bad
        arrays[str(len(arrays))] = array
        return _FakeTensor(array, str(len(arrays) - 1))

    def network(width):
        return {
            "linear.0.weight": tensor(2 * width, width),
            "linear.0.bias": tensor(2 * width),
            "linear.1.weight": tensor(width, 2 * width),
            "linear.1.bias": tensor(width),
        }

    content: dict = {width: (network(width), network(width)) for width in (4, 8)}
    content.update(
        step=300,
        name="best",
        layer_structure=[1.0, 2.0, 1.0],
        activation_func="relu",
        is_layer_norm=False,
        activate_output=False,
        sd_checkpoint=None,
    )
    write_torch_zip(file, content, arrays)


def _curve(rng, steps, start, end, noise):
    values = end + (start - end) * np.exp(-steps / (steps.max() / 5 + 1))
    return values * (1 + noise * rng.normal(size=len(steps)))


def write_run(
    folder: Path,
    loss: float,
    seed: int = 0,
    images: int = 8,
    steps: int = 300,
    adjacent: bool = True,
    image_noise: float = 0.002,
    parameters: int = 1000,
    test: bool = True,
    drift: float = 0.004,
) -> dict:
    """A finished run whose held-out loss is `loss`; losses differ by image (the same in all runs) and a little by run."""
    rng = np.random.default_rng([seed, int(loss * 1e6)])
    # Both sets have a mean of one and the noise a mean of zero, so that means are exactly `loss` and the base's.
    of_image = np.random.default_rng(7).uniform(0.6, 1.4, size=(2, images))
    of_image /= of_image.mean(axis=1, keepdims=True)
    noise = image_noise * rng.normal(size=(2, images))
    noise -= noise.mean(axis=1, keepdims=True)
    folder.mkdir(parents=True)
    rows = []
    for split, kind in enumerate(["heldout", "test"] if test else ["heldout"]):
        for i in range(images):
            image = (kind, split * images + i, f"{split * images + i}.png")
            rows.append((0, *image, BASE_LOSS * of_image[split, i]))
            rows.append((steps, *image, loss * of_image[split, i] + noise[split, i]))
    losses = pd.DataFrame(rows, columns=["step", "kind", "sample_id", "source", "loss"])
    losses.to_csv(folder / "validation_images.csv", index=False)
    ends = losses[losses.step == steps].groupby("kind")["loss"].mean()

    at = np.arange(1, steps + 1)
    pd.DataFrame(
        {
            "step": at,
            "epoch": at * 8 / 96,
            "loss": _curve(rng, at, BASE_LOSS, loss * 0.9, 0.25),
            "lr": 2e-3,
            "grad_norm": 0.1,
            "samples_per_s": 60.0,
            "seconds": at * 0.13,
        }
    ).to_csv(folder / "metrics.csv", index=False)
    at = np.arange(0, steps + 1, 50)
    heldout = _curve(rng, at, BASE_LOSS, ends["heldout"], 0.0)
    heldout[-1] = ends["heldout"]
    validation = {
        "step": at,
        "concept_train": heldout * 0.92,
        "concept_heldout": heldout,
        "adjacent": np.linspace(0.08, 0.09, len(at)) if adjacent else "",
    }
    for quartile, share in zip("1234", (2.2, 1.0, 0.5, 0.3)):
        validation[f"heldout_q{quartile}"] = heldout * share
    validation["adjacent_drift"] = np.linspace(0, drift, len(at)) if adjacent else ""
    pd.DataFrame(validation).to_csv(folder / "validation.csv", index=False)
    (folder / "config.cfg").write_text(
        f'method = hypernetwork\ndata = "sets/a#1"\n\n[train]\nseed = {seed}\nmax_train_steps = {steps}\n'
    )
    result = {
        "status": "done",
        "method": "hypernetwork",
        "steps": steps,
        "heldout_loss": ends["heldout"],
        "best_heldout_loss": ends["heldout"],
        "best_step": steps,
        "base_heldout_loss": losses[(losses.step == 0) & (losses.kind == "heldout")].loss.mean(),
        "concept_train_loss": ends["heldout"] * 0.92,
        "base_concept_train_loss": BASE_LOSS * 0.97,
        "adjacent_loss": 0.09 if adjacent else None,
        "base_adjacent_loss": 0.08 if adjacent else None,
        "adjacent_drift": drift if adjacent else None,
        "test_loss": ends["test"] if test else None,
        "base_test_loss": BASE_LOSS if test else None,
        "trainable_parameters": parameters,
        "seconds": 41.0 + seed,
        "samples_per_s": 58.3,
        "checkpoint": f"checkpoints/step-{steps:08d}",
        "export": f"checkpoints/step-{steps:08d}/x.pt",
        "ranks": 2,
        "base_sha256": "b" * 64,
        "dataset_sha256": "d" * 64,
    }
    (folder / "result.json").write_text(json.dumps(result))
    return result


def _draw(file: Path, colour, index: int) -> None:
    picture = Image.new("RGB", (64, 64), "white")
    pen = ImageDraw.Draw(picture)
    pen.ellipse([10 + index, 8, 54 - index, 56], fill=colour, outline=(40, 40, 40))
    pen.rectangle([26, 20 + index, 38, 44], fill=tuple(channel // 2 for channel in colour))
    picture.save(file)


def write_pictures(sweep: Path, trial_names: list, grey: bool = True) -> None:
    columns = [
        ("base", "base"),
        *((name, "trial") for name in trial_names),
        ("real", "real"),
        ("roundtrip", "roundtrip"),
    ]
    images = []
    for number, caption in enumerate(CAPTIONS):
        split = "validation" if number < 4 else "test"
        images.append(
            {
                "sample_id": number,
                "split": split,
                "caption": caption + ", pencil",
                "prompt": caption,
                "source": f"{number}.png",
                "width": 64,
                "height": 64,
            }
        )
    for name, kind in columns:
        folder = sweep / "pictures" / name
        folder.mkdir(parents=True)
        for number in range(len(images)):
            vivid = (230, 60 + 20 * number, 40)
            dull = (150, 150 + number, 148) if grey else vivid
            _draw(folder / f"{number}.png", vivid if kind == "base" else dull, number)
    index = {
        "format": "ldmtune-pictures",
        "version": 1,
        "settings": {"sampler": "ddim", "num_inference_steps": 20, "guidance_scale": 3.0},
        "columns": [{"name": name, "kind": kind} for name, kind in columns],
        "images": images,
    }
    (sweep / "pictures" / "index.json").write_text(json.dumps(index))


def write_sweep(
    folder: Path,
    losses,
    seeds=(0,),
    fail=(),
    adjacent: bool = True,
    pictures: bool = True,
    best: bool = True,
    drifts=None,
    **run_options,
) -> Path:
    """losses, drifts: one a configuration (layer structure x layer norm, in the grid's order). fail: numbers of failed
    trials."""
    entries = []
    number = 0
    for index, loss in enumerate(losses):
        options = {
            "hypernetwork.layer_structure": STRUCTURES[index // 2 % 2],
            "hypernetwork.layer_norm": ["false", "true"][index % 2],
        }
        if index >= 4:
            options["hypernetwork.layer_structure"] = "1," * index + "1"
        for seed in seeds:
            name = f"{number:03d}-{number:08x}"
            entries.append(
                {
                    "trial": number,
                    "id": name[4:],
                    "folder": f"trials/{name}",
                    "options": options,
                    "seed": seed,
                    "trainable_parameters": 1000 * (index + 1),
                    "length": "300",
                }
            )
            if number in fail:
                (folder / "trials").mkdir(parents=True, exist_ok=True)
                (folder / "trials" / f"{name}.failed.json").write_text(
                    json.dumps({"trial": number, "reason": "update 7: loss nan <not finite>"})
                )
            else:
                spread = 0.001 * (seed - np.mean(seeds))
                write_run(
                    folder / "trials" / name,
                    loss + spread,
                    seed,
                    adjacent=adjacent,
                    parameters=1000 * (index + 1),
                    **({"drift": drifts[index]} if drifts else {}),
                    **run_options,
                )
            number += 1
    plan = {
        "format": "ldmtune-sweep",
        "version": 1,
        "base": "datasets/emoji-base",
        "data": "runs/demo/data",
        "adjacent": "",
        "varied": ["hypernetwork.layer_structure", "hypernetwork.layer_norm"],
        "trials": entries,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sweep.json").write_text(json.dumps(plan))
    done = [entry for entry in entries if entry["trial"] not in fail]
    if pictures:
        write_pictures(folder, [Path(entry["folder"]).name for entry in done])
    if best and done:
        _write_best(folder, done)
    return folder


def _write_best(folder: Path, done: list) -> None:
    def loss(entry):
        return json.loads((folder / entry["folder"] / "result.json").read_text())["heldout_loss"]

    winner = min(done, key=loss)
    write_hypernetwork(folder / "best.pt")
    card = {
        "file": "best.pt",
        "sha256": "c" * 64,
        "trial": winner["trial"],
        "folder": winner["folder"],
        "scores": {"heldout_loss": loss(winner)},
    }
    (folder / "best.json").write_text(json.dumps(card))
