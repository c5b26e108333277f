"""Draws loss.png from the two tables beside this script: python draw.py (needs pandas and matplotlib).

`python draw.py RUN` takes the tables from the folder of a run of jobs/emoji-base.cfg first: validation.csv as it is, metrics.csv
averaged over every hundred updates."""

import pathlib
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd

HERE = pathlib.Path(__file__).parent
BATCH = 32


def take_tables(run):
    """A resumed run repeats the steps since its checkpoint: the last row of a step counts."""
    validation = pd.read_csv(run / "validation.csv").drop_duplicates("step", keep="last")
    validation.dropna(axis="columns", how="all").round(5).to_csv(HERE / "validation.csv", index=False)
    metrics = pd.read_csv(run / "metrics.csv").drop_duplicates("step", keep="last")[["step", "loss", "grad_norm"]]
    means = metrics.groupby((metrics["step"] - 1) // 100).mean().assign(step=lambda table: table["step"].round().astype(int))
    means.round(5).to_csv(HERE / "training.csv", index=False)


def draw():
    training, validation = pd.read_csv(HERE / "training.csv"), pd.read_csv(HERE / "validation.csv")
    figure, axis = plt.subplots(figsize=(7, 4))
    axis.plot(training["step"] * BATCH / 1000, training["loss"], color="0.75", label="training batches, mean of 100")
    axis.plot(validation["step"] * BATCH / 1000, validation["concept_heldout"], marker="o", markersize=3, label="held-out images")
    axis.plot(validation["step"] * BATCH / 1000, validation["concept_train"], marker="o", markersize=3, label="training images, same noise")
    axis.set(yscale="log", xlabel="thousand samples", ylabel="loss")
    axis.grid(alpha=0.3, which="both")
    axis.legend()
    figure.tight_layout()
    figure.savefig(HERE / "loss.png", dpi=110)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        take_tables(pathlib.Path(sys.argv[1]))
    draw()
