"""Results of many sweeps in one table: an HDF5 file with typed, documented columns, and the same as CSV.

Every trial writes its own files and nothing else, so that many trainings write at once; collecting reads them, under
a lock, and replaces the table whole. A trial that is collected again replaces its old row; rows of other sweeps stay.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import numpy as np
import pandas as pd

from .runs import Sweep

# Column -> (type, unit, meaning). Options that varied follow as text columns under their own names.
COLUMNS = {
    "sweep": ("text", "", "folder of the sweep"),
    "trial": ("integer", "", "number in the sweep's plan"),
    "id": ("text", "", "hash of everything that decides what is trained; with sweep the key of a row"),
    "status": ("text", "", "done, stopped by successive halving, failed, interrupted or pending"),
    "seed": ("integer", "", "train.seed"),
    "subset_seed": ("integer", "", "data.subset_seed: which draw of the training subset"),
    "method": ("text", "", "what was trained"),
    "steps": ("integer", "updates", "optimizer updates"),
    "heldout_loss": ("number", "mean squared error", "validation images at the end; chooses"),
    "base_heldout_loss": ("number", "mean squared error", "the same of the untouched base"),
    "best_heldout_loss": ("number", "mean squared error", "lowest of all validations"),
    "best_step": ("integer", "updates", "where that was"),
    "train_loss": ("number", "mean squared error", "training images at the end, at validation's noise"),
    "base_train_loss": ("number", "mean squared error", "the same of the untouched base"),
    "adjacent_loss": ("number", "mean squared error", "validation images of validation.adjacent at the end"),
    "base_adjacent_loss": ("number", "mean squared error", "the same of the untouched base"),
    "adjacent_drift": ("number", "mean squared difference", "from the base's own prediction on those images at the end"),
    "adjacent_trigger_loss": ("number", "mean squared error", "those images with validation.adjacent_trigger"),
    "base_adjacent_trigger_loss": ("number", "mean squared error", "the same of the untouched base"),
    "adjacent_trigger_drift": ("number", "mean squared difference", "with the trigger, from the base's prediction with it"),
    "test_loss": ("number", "mean squared error", "test images at the end; only reported"),
    "base_test_loss": ("number", "mean squared error", "the same of the untouched base"),
    "trainable_parameters": ("integer", "numbers", "what trained"),
    "export_bytes": ("integer", "bytes", "the file that it became; empty where `ldmtune export` must write it"),
    "training_tflops": ("number", "10^12 operations", "training alone, counted by the run"),
    "tflops": ("number", "10^12 operations", "training and validation, counted from the networks' shapes"),
    "seconds": ("number", "s", "training, over all interruptions"),
    "samples_per_s": ("number", "samples/s", "training speed at the end"),
    "ranks": ("integer", "ranks", "at the end"),
    "base_sha256": ("text", "", "base model; losses compare only where it is the same"),
    "dataset_sha256": ("text", "", "dataset; losses compare only where it is the same"),
    "folder": ("text", "", "run folder"),
    "reason": ("text", "", "why a trial failed or was stopped"),
}
_IMAGES = {
    "sweep": ("text", "", "folder of the sweep"),
    "id": ("text", "", "the trial's"),
    "kind": ("text", "", "heldout, test, train, adjacent or adjacent_trigger"),
    "sample_id": ("integer", "", "the image's"),
    "loss": ("number", "mean squared error", "at the end"),
    "base_loss": ("number", "mean squared error", "of the untouched base"),
    "drift": ("number", "mean squared difference", "from the base's own prediction at the end; of adjacent images"),
}
# Columns that show a key of result.json under the name that results.csv gives it.
_KEYS = {"train_loss": "concept_train_loss", "base_train_loss": "base_concept_train_loss"}
_KINDS = ("heldout", "test", "train", "adjacent", "adjacent_trigger")
_OPTION = ("text", "", "option; empty where it does not count or did not vary in that sweep")


def collect(sweeps: list, output) -> Path:
    """Adds the trials of the sweeps to OUTPUT (.h5) and to the CSV of the same name; returns the file.

    Errors: ValueError if OUTPUT or its CSV would replace another file; ImportError if h5py is missing; OSError.
    """
    output = Path(output)
    _expect_own_names(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    results = pd.concat([_trials(sweep) for sweep in sweeps], ignore_index=True)
    images = pd.concat([_images(sweep) for sweep in sweeps], ignore_index=True)
    with _lock(output):
        if output.is_file():
            results = _merged(load_results(output), results, ["sweep", "id"])
            images = _merged(load_results(output, "image_losses"), images, ["sweep", "id"])
        _write_hdf5(output, {"results": (results, COLUMNS), "image_losses": (images, _IMAGES)})
        partial = output.with_suffix(".csv.partial")
        _whole_numbers(results).to_csv(partial, index=False)
        partial.replace(output.with_suffix(".csv"))
    return output


def _expect_own_names(output: Path) -> None:
    """OUTPUT and its CSV are two files, and neither is the results.csv that `ldmtune sweep` writes."""
    if output.suffix not in (".h5", ".hdf5"):
        raise ValueError(f"{output}: expected a name that ends in .h5; the CSV comes beside it")
    if output.stem == "results" and (output.parent / "sweep.json").is_file():
        table = output.with_suffix(".csv")
        raise ValueError(f"{output}: its CSV would replace {table}, the sweep's own; name it collected.h5, say")


def load_results(file, table: str = "results") -> pd.DataFrame:
    """A table of a collection: "results" (a row a trial) or "image_losses" (a row an image of a trial)."""
    import h5py

    with h5py.File(file, "r") as content:
        group = content[table]
        names = [name.decode() if isinstance(name, bytes) else name for name in group.attrs["columns"]]
        columns = {}
        for name in names:
            data = group[name]
            if data.attrs["type"] == "text":
                columns[name] = data.asstr()[:]
            elif data.attrs["type"] == "integer":
                values = pd.array(data[:], dtype="Int64")
                values[data[:] == _NO_INTEGER] = pd.NA
                columns[name] = values
            else:
                columns[name] = data[:]
        renamed = {key: name for name, key in _KEYS.items()}  # in files of before this name
        return pd.DataFrame(columns, columns=names).rename(columns=renamed)


_NO_INTEGER = np.iinfo(np.int64).min


def _sweep_name(sweep: Sweep) -> str:
    return str(sweep.folder.resolve()) if sweep.folder else ""


def _trials(sweep: Sweep) -> pd.DataFrame:
    rows = []
    for run in sweep.runs:
        options = {name: value or "" for name, value in run.options.items() if name not in ("folder", "train.seed")}
        scores = {name: run.result.get(_KEYS.get(name, name)) for name in COLUMNS}
        identity = run.planned.get("id") or run.name
        rows.append(
            {
                **scores,
                **options,
                "sweep": _sweep_name(sweep) or str(run.folder.resolve().parent),
                "trial": run.trial,
                "id": identity,
                "status": run.status,
                "seed": run.seed,
                "subset_seed": run.subset_seed,
                "tflops": run.tflops,
                "folder": str(run.folder),
                "reason": run.reason,
            }
        )
    return pd.DataFrame(rows)


def _images(sweep: Sweep) -> pd.DataFrame:
    frames = [pd.DataFrame(columns=list(_IMAGES))]
    for run in sweep.runs:
        name = _sweep_name(sweep) or str(run.folder.resolve().parent)
        for kind in _KINDS if run.status == "done" else ():
            losses, base = run.losses(kind), run.losses(kind, at="base")
            if len(losses):
                frame = pd.DataFrame({"sample_id": losses.index, "loss": losses.to_numpy()})
                frame["base_loss"] = base.reindex(losses.index).to_numpy()
                frame["drift"] = run.drifts(kind).reindex(losses.index).to_numpy()
                frames.append(frame.assign(sweep=name, id=run.planned.get("id") or run.name, kind=kind))
    return pd.concat([frame for frame in frames if len(frame)] or frames, ignore_index=True)[list(_IMAGES)]


def _merged(old: pd.DataFrame, new: pd.DataFrame, key: list) -> pd.DataFrame:
    fresh = set(map(tuple, new[key].astype(str).to_numpy()))
    kept = old[[tuple(row) not in fresh for row in old[key].astype(str).to_numpy()]]
    return pd.concat([kept.astype(object), new.astype(object)], ignore_index=True) if len(kept) else new


def _whole_numbers(results: pd.DataFrame) -> pd.DataFrame:
    """Integers as such, though some are missing."""
    integers = {name for name, (kind, _, _) in COLUMNS.items() if kind == "integer"}
    return results.assign(**{name: pd.to_numeric(results[name]).astype("Int64") for name in integers})


def _write_hdf5(output: Path, tables: dict) -> None:
    import h5py

    partial = output.with_name(output.name + ".partial")
    with h5py.File(partial, "w", libver=("earliest", "v110")) as content:
        content.attrs.update(format="ldmtune-results", version=1)
        for name, (frame, documented) in tables.items():
            group = content.create_group(name)
            group.attrs["columns"] = list(frame.columns)
            for column in frame.columns:
                _write_column(group, column, frame[column], *documented.get(column, _OPTION))
    partial.replace(output)


def _write_column(group, name: str, values: pd.Series, kind: str, unit: str, meaning: str) -> None:
    import h5py

    if kind == "text":
        texts = ["" if value is None or value is pd.NA or value != value else str(value) for value in values]
        data = group.create_dataset(name, data=np.array(texts, dtype=object), dtype=h5py.string_dtype())
    elif kind == "integer":
        numbers = pd.to_numeric(values, errors="coerce")
        known = numbers.notna().to_numpy(dtype=bool)
        integers = np.full(len(numbers), _NO_INTEGER, dtype=np.int64)
        integers[known] = numbers[known].astype(np.int64)
        data = group.create_dataset(name, data=integers)
        data.attrs["missing"] = _NO_INTEGER
    else:
        numbers = pd.to_numeric(values, errors="coerce").astype(float).to_numpy()
        data = group.create_dataset(name, data=numbers)
        data.attrs["missing"] = np.nan
    data.attrs.update(type=kind, unit=unit, description=meaning)


@contextlib.contextmanager
def _lock(output: Path):
    """One collector at a time."""
    import fcntl

    file = os.open(output.with_name(output.name + ".lock"), os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)
