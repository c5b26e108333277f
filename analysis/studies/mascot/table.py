"""Prints the table of README.md from losses.csv beside this script: python table.py (needs pandas and ldmtune_analysis).

`python table.py DREAMBOOTH WITHOUT WORD` makes losses.csv first, from the folders of the three runs: every image's loss before the first
update and after the last."""

import pathlib
import sys

import pandas as pd

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))
from ldmtune_analysis.statistics import paired_interval  # noqa: E402

RUNS = ["dreambooth with class images", "dreambooth without", "textual inversion"]


def take(folders):
    tables = []
    for name, folder in zip(RUNS, folders, strict=True):
        table = pd.read_csv(pathlib.Path(folder) / "validation_images.csv").drop_duplicates(["step", "kind", "sample_id"], keep="last")
        ends = {table["step"].min(): "before", table["step"].max(): "after"}
        table = table[table["step"].isin(ends) & table["kind"].isin(["heldout", "adjacent"])]
        tables.append(table.assign(run=name, when=table["step"].map(ends))[["run", "kind", "sample_id", "step", "when", "loss"]])
    pd.concat(tables).round(6).to_csv(HERE / "losses.csv", index=False)


def losses(table, run, kind, when):
    rows = table[(table["run"] == run) & (table["kind"] == kind) & (table["when"] == when)]
    return rows.set_index("sample_id")["loss"]


def main():
    if len(sys.argv) > 1:
        take(sys.argv[1:])
    table = pd.read_csv(HERE / "losses.csv")
    for run in RUNS:
        steps = table[table["run"] == run]["step"].max()
        for kind in ("heldout", "adjacent"):
            before, after = (losses(table, run, kind, when) for when in ("before", "after"))
            print(f"{run}, {steps} updates, {kind}: {before.mean():.4f} -> {after.mean():.4f} ({len(after)} images)")
    a, b = (losses(table, run, "adjacent", "after") for run in ("dreambooth without", "dreambooth with class images"))
    interval = paired_interval(a, b)
    print(f"class images forget less by {interval.mean:.4f} [{interval.low:.4f}, {interval.high:.4f}]; less on {(a > b).sum()} of {len(a)} images")


if __name__ == "__main__":
    main()
