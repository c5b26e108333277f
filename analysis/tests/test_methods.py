import math
import re

import numpy as np
import pandas as pd
import pytest
from ldmtune_analysis.method_files import write_methods
from ldmtune_analysis.method_section import method_sections, sentence
from ldmtune_analysis.methods import BASE, compare_methods, read_strengths, tables
from ldmtune_analysis.runs import Run, Sweep

METHODS = ["textual_inversion", "hypernetwork", "dreambooth", "lora"]
IMAGES = 16
KINDS = ("heldout", "train", "test", "adjacent", "adjacent_trigger")


def make_sweep(tmp_path, effect, seeds=3, arms=("2.4", "0"), rates=("1e-3", "3e-3"), noise=0.002, seed=0):
    """effect(method, kind, arm, rate): what training adds to the base's loss on such images. 3e-3 is replicated."""
    rng = np.random.default_rng(seed)
    level = {kind: rng.uniform(0.1, 0.3, size=IMAGES) for kind in KINDS}
    of_replicate = noise * rng.normal(size=seeds)
    runs = []
    for method in METHODS:
        for arm in arms:
            for rate in rates:
                for replicate in range(seeds if rate == "3e-3" else 1):
                    luck = of_replicate[replicate] + noise * rng.normal()
                    frames = []
                    for kind, base in level.items():
                        change = effect(method, kind, arm, rate)
                        moved = luck + noise * rng.normal(size=IMAGES) if change else 0.0
                        drift = abs(change) / 10 if kind.startswith("adjacent") else math.nan
                        for step, loss, far in ((0, base, 0.0), (9, base + change + moved, drift)):
                            frames.append(pd.DataFrame({"step": step, "kind": kind, "sample_id": range(IMAGES), "loss": loss, "drift": far}))
                    runs.append(_run(tmp_path, len(runs), method, arm, rate, replicate, pd.concat(frames)))
    plan = {"conditions": {"optim.learning_rate": ["method"], "train.max_train_steps": ["train.max_tflops"]}}
    varied = ["method", "train.max_tflops", "train.max_train_steps", "optim.learning_rate"]
    return Sweep("study", tmp_path, varied, runs, plan=plan)


def _run(tmp_path, number, method, arm, rate, seed, images):
    ends = images[images.step == 9].groupby("kind")[["loss", "drift"]].mean()
    starts = images[images.step == 0].groupby("kind")["loss"].mean()
    result = {"concept_train_loss": ends.loss["train"], "base_concept_train_loss": starts["train"]}
    for kind in ("heldout", "test", "adjacent", "adjacent_trigger"):
        result[f"{kind}_loss"], result[f"base_{kind}_loss"] = ends.loss[kind], starts[kind]
    result.update(adjacent_drift=ends.drift["adjacent"], adjacent_trigger_drift=ends.drift["adjacent_trigger"])
    result.update(trainable_parameters=1000, export_bytes=4000, training_tflops=2.4, seconds=20.0, steps=200)
    options = {
        "method": method,
        "train.max_tflops": arm,
        "train.max_train_steps": "200" if arm == "0" else None,
        "optim.learning_rate": rate,
    }
    folder = tmp_path / f"{number:03d}"
    run = Run(folder.name, folder, "done", options, seed, result, {"train.global_batch_size": "4"}, trial=number)
    run.__dict__["images"] = images
    return run


def known_effects(method, kind, arm, rate):
    if rate != "3e-3":
        return -0.01 if kind in ("heldout", "test", "train") else 0.05
    fit = {"textual_inversion": -0.02, "hypernetwork": -0.08, "dreambooth": -0.05, "lora": -0.08}[method]
    if kind in ("heldout", "test", "train"):
        return fit - (0.02 if kind == "train" and method == "dreambooth" else 0)
    forgetting = {"textual_inversion": 0.0, "hypernetwork": 0.04, "dreambooth": 0.02, "lora": 0.06}[method]
    return forgetting + (0.03 if kind == "adjacent_trigger" else 0.0)


def verdict_of(arm, key):
    return next(one for one in arm.verdicts if one.question.key == key)


def test_each_question_has_its_winner_or_a_tie(tmp_path):
    arms = compare_methods(make_sweep(tmp_path, known_effects))
    assert [arm.label for arm in arms] == ["Equal operations: 2.4 TFLOP of training each", "Equal samples: 800 each"]
    for arm in arms:
        assert {entry.configuration.options["optim.learning_rate"] for entry in arm.entries} == {"3e-3"}
        fit = verdict_of(arm, "fit")
        assert {fit.first, *fit.tied} == {"hypernetwork", "lora"}
        assert list(fit.values)[-1] == BASE
        forgetting = verdict_of(arm, "forgetting")
        assert {forgetting.first, *forgetting.tied} == {"textual_inversion", BASE}
        assert verdict_of(arm, "forgetting_trigger").first == BASE
        gap = verdict_of(arm, "gap")
        assert gap.duel("dreambooth", "lora").interval.mean == pytest.approx(0.02, abs=0.01)
        drift = verdict_of(arm, "drift")
        assert drift.first == "textual_inversion" and not drift.tied
        assert BASE not in drift.values


def test_a_duel_can_be_asked_for_from_both_sides(tmp_path):
    fit = verdict_of(compare_methods(make_sweep(tmp_path, known_effects))[0], "fit")
    one, other = fit.duel("lora", "dreambooth"), fit.duel("dreambooth", "lora")
    assert one.interval.mean == -other.interval.mean and one.p == other.p
    assert one.interval.low == -other.interval.high < one.interval.mean < one.interval.high
    assert one.claimed and one.interval.mean == pytest.approx(-0.03, abs=0.008)


def test_without_an_effect_claims_are_rare(tmp_path):
    """Over 30 made-up sweeps in which all methods do the same, claims of a difference between methods."""
    wrong = 0
    for seed in range(30):
        sweep = make_sweep(tmp_path, lambda *_: -0.05, arms=("2.4",), rates=("3e-3",), seed=seed)
        (arm,) = compare_methods(sweep)
        duels = [duel for verdict in arm.verdicts for duel in verdict.duels if BASE not in (duel.first, duel.second)]
        wrong += any(duel.claimed for duel in duels if duel.interval.mean)
    assert wrong <= 4, f"{wrong} of 30"


def test_sentences_say_who_won_and_by_how_much(tmp_path):
    arm = compare_methods(make_sweep(tmp_path, known_effects))[0]
    said = {one.question.key: re.sub(r"<[^>]*>", "", sentence(one)) for one in arm.verdicts}
    assert re.match(r"Fit \(loss on test images\): (hypernetwork and LoRA|LoRA and hypernetwork) are tied", said["fit"])
    assert "dreambooth, textual inversion and untouched base are worse" in said["fit"]
    assert re.search(r"won, 0\.\d+, against dreambooth: \+0\.00\d+", said["drift"])
    assert "untouched base is lowest" in said["forgetting_trigger"]


def test_the_section_has_a_table_an_arm_and_the_curves(tmp_path):
    sweep = make_sweep(tmp_path, known_effects)
    best = compare_methods(sweep)[0].entries[0].configuration.exported
    best.folder.mkdir()
    rows = [(s, kind, i, "a", 0.2 - 0.1 * s, 0.01 * s) for s in (0.0, 0.5, 1.0) for kind in KINDS for i in range(3)]
    frame = pd.DataFrame(rows, columns=["strength", "kind", "sample_id", "source", "loss", "drift"])
    frame.to_csv(best.folder / "strengths.csv", index=False)
    page = method_sections(sweep)
    assert page.count("<h3>") == 2 and page.count("untouched base</td>") == 2
    assert "Test loss against the change of the adjacent loss" in page
    assert "nan" not in re.sub(r"<[^>]*>", "", page)
    means = read_strengths(compare_methods(sweep)[0].entries[0])
    assert len(means) == 15 and means[means.strength == 0.5].loss.iloc[0] == pytest.approx(0.15)


def test_files_to_keep(tmp_path):
    sweep = make_sweep(tmp_path, known_effects)
    for entry in compare_methods(sweep)[1].entries:
        folder = entry.configuration.exported.folder
        folder.mkdir()
        rows = [(s, kind, 0, "a", 0.2 - 0.1 * s, 0.0) for s in (0.0, 1.0) for kind in KINDS]
        frame = pd.DataFrame(rows, columns=["strength", "kind", "sample_id", "source", "loss", "drift"])
        frame.to_csv(folder / "strengths.csv", index=False)
    folder = write_methods(sweep, tmp_path / "kept")
    assert {file.name for file in folder.iterdir()} == {
        "methods.csv",
        "duels.csv",
        "strengths.csv",
        "verdicts.md",
        "strengths.png",
    }
    assert "## Equal samples: 800 each" in (folder / "verdicts.md").read_text()
    sweep.varied.remove("method")
    with pytest.raises(ValueError, match="method"):
        write_methods(sweep, tmp_path / "none")


def test_tables_hold_every_number(tmp_path):
    found = tables(compare_methods(make_sweep(tmp_path, known_effects)))
    assert len(found["methods"]) == 8 and set(found["methods"].replicates) == {3}
    assert set(found["methods"].samples) == {800.0}
    # 6 pairs a question, and each method against the base in three of the six
    assert len(found["duels"]) == 2 * (6 * 6 + 3 * 4)
    assert (found["duels"].p_holm.dropna() >= found["duels"].p[found["duels"].p_holm.notna()]).all()
    assert found["strengths"].empty


def test_other_sweeps_have_no_methods(tmp_path):
    sweep = make_sweep(tmp_path, known_effects)
    sweep.varied.remove("method")
    assert compare_methods(sweep) == [] and method_sections(sweep) == ""
