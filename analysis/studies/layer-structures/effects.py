"""Prints how depth and the kind of start act on the test loss, from test_losses.csv beside this script: python effects.py (needs pandas, matplotlib and
ldmtune_analysis). test_losses.csv holds a row for each trial of the main run and of "starts", with the loss of every test image.

`python effects.py SWEEP...` takes that table from the sweeps' folders first; trials of a sweep are those of results.csv by their id."""

import json
import pathlib
import sys

import pandas as pd
from draw import HERE, SIZES, STRUCTURES, results

sys.path.insert(0, str(HERE.parents[1]))
from ldmtune_analysis.statistics import crossed_interval, holm  # noqa: E402

STARTS = ["Normal", "XavierNormal"]


def test_losses(folder):
    """The test image losses of a trial after its last update, by image."""
    table = pd.read_csv(folder / "validation_images.csv")
    rows = table[(table["kind"] == "test") & (table["step"] == table["step"].max())]
    return rows.set_index("source")["loss"].round(6)


def take(folders):
    rows = []
    for folder in map(pathlib.Path, folders):
        for trial in json.loads((folder / "sweep.json").read_text())["trials"]:
            own = {"sweep": folder.name, "id": trial["id"], "seed": trial["seed"], "subset": trial["options"]["data.subset"]}
            rows.append({**own, **test_losses(folder / trial["folder"])})
    pd.DataFrame(rows).to_csv(HERE / "test_losses.csv", index=False)


def without_norm():
    """Losses (images) by (structure, start, size, seed)."""
    settings = results()[["id", "hypernetwork.layer_structure", "hypernetwork.weight_init", "norm"]].drop_duplicates("id")
    table = pd.read_csv(HERE / "test_losses.csv").merge(settings, on="id")
    table = table[table["norm"] == "off"]
    images = [column for column in table if column.endswith(".png")]
    keys = ["hypernetwork.layer_structure", "hypernetwork.weight_init", "subset", "seed"]
    return {tuple(row[key] for key in keys): row[images].to_numpy(float) for _, row in table.iterrows()}


def difference(losses, first, second, size=None):
    """Interval of first - second, settings (structure, start), over seeds and images, at one size or over all."""
    shared = [key[2:] for key in losses if key[:2] == first and second + key[2:] in losses and size in (None, key[2])]
    matrix = [losses[first + key] - losses[second + key] for key in shared]
    return crossed_interval(matrix, groups=[key[1] for key in shared])


def contrasts(losses):
    for start in STARTS:
        for other in STRUCTURES[1:]:
            yield f"{start}: {other} - 1,2,1", difference(losses, (other, start), ("1,2,1", start))
    for structure in STRUCTURES:
        yield f"{structure}: Xavier - Normal", difference(losses, (structure, "XavierNormal"), (structure, "Normal"))
    for size in SIZES:
        label = f"XavierNormal, {size} images: 1,2,4,2,1 - 1,2,1"
        yield label, difference(losses, ("1,2,4,2,1", "XavierNormal"), ("1,2,1", "XavierNormal"), size)


def main():
    if len(sys.argv) > 1:
        take(sys.argv[1:])
    losses = without_norm()
    for structure in STRUCTURES:
        for start in STARTS:
            own = [value.mean() for key, value in losses.items() if key[:2] == (structure, start)]
            print(f"{structure:10} {start:13} {sum(own) / len(own):.4f} ({len(own)} trials)")
    labels, intervals = zip(*contrasts(losses))
    for label, interval, p in zip(labels, intervals, holm([interval.p for interval in intervals])):
        claimed = ", claimed" if p < 0.05 else ""
        print(f"{label} = {interval.mean:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}], p after Holm {p:.3f}{claimed}")


if __name__ == "__main__":
    main()
