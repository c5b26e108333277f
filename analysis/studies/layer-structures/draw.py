"""Draws the study's figures from results.csv beside this script: python draw.py (needs pandas and matplotlib)."""

import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd

HERE = pathlib.Path(__file__).parent
STRUCTURES = ["1,2,1", "1,2,2,1", "1,2,4,2,1", "1,10,1"]
NORMS = {"off": "no layer norm", "zero_last": "layer norm, zero_last", "a1111": "layer norm, a1111"}
SIZES = [32, 128, 512]


def results():
    """results.csv with a column `norm`: off, zero_last or a1111."""
    table = pd.read_csv(HERE / "results.csv")
    off = table["hypernetwork.layer_norm"].astype(str).str.lower() == "false"
    table["norm"] = table["hypernetwork.layer_norm_init"].where(~off, "off")
    return table


def draw_losses(table):
    """Test loss over the number of training images, a panel for each kind of layer norm; bars: sd over three seeds."""
    main = table[table["sweep"] == "layer-structures-tuned"]
    norms = [norm for norm in NORMS if (main["norm"] == norm).any()]
    figure, axes = plt.subplots(1, len(norms), figsize=(4.2 * len(norms), 3.8), sharey=True, squeeze=False)
    for axis, norm in zip(axes[0], norms):
        for number, structure in enumerate(STRUCTURES):
            rows = main[(main["norm"] == norm) & (main["hypernetwork.layer_structure"] == structure)]
            losses = rows.groupby("data.subset")["test_loss"].agg(["mean", "std"]).reindex(SIZES)
            places = [place + 0.06 * (number - 1.5) for place in range(len(SIZES))]
            axis.errorbar(places, losses["mean"], losses["std"], marker="o", capsize=3, label=structure)
        axis.set(title=NORMS[norm], xlabel="training images", xticks=range(len(SIZES)), xticklabels=SIZES)
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("test loss (base: %.3f)" % main["base_test_loss"].iloc[0])
    axes[0][0].legend(title="layer structure")
    save(figure, "losses.png")


def draw_rates(table):
    """The pilots: held-out loss over the learning rate at 128 images, swish, one seed."""
    pilots = table[table["sweep"].isin(["pilot", "pilot-norm"]) & (table["hypernetwork.activation"] != "linear")]
    deep = pilots["hypernetwork.layer_structure"].isin(["1,2,2,1", "1,2,4,2,1"])
    xavier = pilots["sweep"].eq("pilot-norm") | pilots["hypernetwork.weight_init"].eq("XavierNormal")
    pilots = pilots[~deep | xavier]
    figure, axis = plt.subplots(figsize=(6, 4))
    for number, structure in enumerate(STRUCTURES):
        for norm, line in (("off", "-"), ("zero_last", "--")):
            rows = pilots[(pilots["hypernetwork.layer_structure"] == structure) & (pilots["norm"] == norm)]
            rows = rows.sort_values("optim.learning_rate")
            label = structure + (", layer norm" if norm != "off" else "")
            axis.plot(rows["optim.learning_rate"], rows["heldout_loss"], line, marker="o", color=f"C{number}", label=label)
    axis.set(xscale="log", ylim=(0.055, 0.185), xlabel="learning rate", ylabel="held-out loss at 128 images")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    save(figure, "rates.png")


def draw_starts(table):
    """Test loss of each structure without layer norm, from both kinds of initial weights; bars: sd over sizes and seeds."""
    rows = table[table["sweep"].isin(["layer-structures-tuned", "starts"]) & (table["norm"] == "off")]
    figure, axis = plt.subplots(figsize=(5.5, 3.8))
    for number, (start, label) in enumerate({"Normal": "N(0, 0.01)", "XavierNormal": "Xavier"}.items()):
        own = rows[rows["hypernetwork.weight_init"] == start]
        losses = own.groupby("hypernetwork.layer_structure")["test_loss"].agg(["mean", "std"]).reindex(STRUCTURES)
        places = [place + 0.08 * (2 * number - 1) for place in range(len(STRUCTURES))]
        axis.errorbar(places, losses["mean"], losses["std"], marker="o", linestyle="", capsize=3, label=label)
    axis.set(xticks=range(len(STRUCTURES)), xticklabels=STRUCTURES, xlabel="layer structure", ylabel="test loss, no layer norm")
    axis.grid(alpha=0.3)
    axis.legend(title="initial weights")
    save(figure, "starts.png")


def save(figure, name):
    figure.tight_layout()
    figure.savefig(HERE / name, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    draw_losses(results())
    draw_rates(results())
    draw_starts(results())
