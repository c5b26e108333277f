import math

import numpy as np
import pytest
from ldmtune_analysis import load_sweep
from ldmtune_analysis.effect_section import effect_sections
from ldmtune_analysis.effects import analyse_effects, level_label, structure_depth, structure_width
from ldmtune_analysis.ranking import standings
from studies import OPTIONS, make_study
from synthetic import write_sweep


def claims_of(effects):
    return {(one.factor, one.level, one.reference, one.within) for one in effects.claims}


def norm_helps(options):
    return -0.02 if options["hypernetwork.layer_norm"] == "true" else 0.0


def test_a_known_effect_is_found_with_its_size_and_nothing_else():
    effects = analyse_effects(make_study(np.random.default_rng(1), norm_helps))
    assert claims_of(effects) == {("hypernetwork.layer_norm", "true", "false", "")}
    (claim,) = effects.claims
    assert claim.interval.low < -0.02 < claim.interval.high
    assert claim.interval.high - claim.interval.low < 0.02
    assert effects.measured_on == "test" and effects.tuned == ["optim.learning_rate"]


def test_without_an_effect_at_most_one_study_in_twenty_claims_one():
    """200 studies of 36 runs each in which nothing matters: neither options, nor interactions, nor ranks are claimed."""
    rng = np.random.default_rng(7)
    false_effects = false_ranks = 0
    for _ in range(200):
        study = make_study(rng)
        false_effects += bool(analyse_effects(study).claims)
        false_ranks += any(one.worse or one.better for one in standings(study.configurations))
    # 5% of 200 is 10; up to 17 has a probability of 99% at a true rate of 5%.
    assert false_effects <= 17, false_effects
    assert false_ranks <= 17, false_ranks


def test_layer_norm_that_helps_only_deep_structures_is_an_interaction():
    def effect(options):
        deep = options["hypernetwork.layer_structure"] == "1,2,4,2,1"
        return -0.03 if deep and options["hypernetwork.layer_norm"] == "true" else 0.0

    effects = analyse_effects(make_study(np.random.default_rng(2), effect, noise=0.002))
    (interaction,) = effects.interactions
    assert interaction.first == "hypernetwork.layer_norm" or interaction.second == "hypernetwork.layer_norm"
    found = {one.within for one in interaction.contrasts if one.claimed}
    assert found, [one.p for one in interaction.contrasts]
    page = effect_sections(effects)
    assert "depend on" in page and "what " in page


def test_depth_counts_structures_of_the_same_depth_together():
    options = {**OPTIONS, "hypernetwork.layer_structure": ["1,2,1", "1,10,1", "1,2,4,2,1"]}
    effects = analyse_effects(
        make_study(
            np.random.default_rng(3),
            lambda chosen: -0.02 * (structure_depth(chosen["hypernetwork.layer_structure"]) == 4),
            options,
        )
    )
    factors = {factor.name: factor for factor in effects.factors}
    assert [level for level, _, _ in factors["depth"].levels] == ["2", "4"]
    assert [contrast.claimed for contrast in factors["depth"].contrasts] == [True]
    # "width" is another name for these three structures, so it is not shown as an effect of its own.
    assert "width" not in factors
    assert structure_depth("1,2,4,2,1") == 4 and structure_width("1,2,4,2,1") == 4 and structure_width("1,1") == 1


def test_each_cell_counts_at_its_best_rate_by_validation():
    """Deep structures want the small rate: at their best rates both are alike, at any one rate they are not."""

    def effect(options):
        deep = options["hypernetwork.layer_structure"] == "1,2,4,2,1"
        right = options["optim.learning_rate"] == ("1e-3" if deep else "3e-3")
        return 0.0 if right else 0.05

    options = {**OPTIONS, "hypernetwork.layer_structure": ["1,2,1", "1,2,4,2,1"]}
    study = make_study(np.random.default_rng(4), effect, options, noise=0.002)
    assert not [one for one in analyse_effects(study).claims if one.factor == "hypernetwork.layer_structure"]
    untuned = {factor.name: factor for factor in analyse_effects(study, tuned=[]).factors}
    assert untuned["optim.learning_rate"].levels[0][2] == 12, "without tuning all runs count"
    tuned = {factor.name: factor for factor in analyse_effects(study).factors}
    assert tuned["hypernetwork.layer_norm"].levels[0][2] == 6


def test_an_option_that_counts_only_sometimes_does_not_hide_the_one_it_depends_on():
    options = {"hypernetwork.layer_norm": ["false", "true"], "hypernetwork.layer_norm_init": ["ones", "zero_last"]}
    study = make_study(
        np.random.default_rng(5),
        norm_helps,
        options,
        replicates=5,
        conditions={"hypernetwork.layer_norm_init": ["hypernetwork.layer_norm"]},
    )
    kept = {}
    for run in study.runs:
        if run.options["hypernetwork.layer_norm"] == "false":
            run.options["hypernetwork.layer_norm_init"] = None
        kept.setdefault((tuple(run.options.values()), run.seed), run)
    study.runs = list(kept.values())
    factors = {factor.name: factor for factor in analyse_effects(study).factors}
    assert [one.claimed for one in factors["hypernetwork.layer_norm"].contrasts] == [True]
    kinds = factors["kind of layer norm"]
    assert [level for level, _, _ in kinds.levels] == ["off", "ones", "zero_last"]
    assert [one.claimed for one in kinds.contrasts] == [True, True]
    levels = factors["hypernetwork.layer_norm_init"].levels
    assert [level for level, _, _ in levels] == ["ones", "zero_last"] and levels[0][2] == 5


def test_options_that_change_only_together_are_said_so():
    options = {"optim.learning_rate": ["1e-3", "3e-3"], "train.max_train_steps": ["100", "300"]}
    study = make_study(np.random.default_rng(6), options=options)
    wanted = {("1e-3", "100"), ("3e-3", "300")}
    study.runs = [run for run in study.runs if tuple(run.options.values()) in wanted]
    effects = analyse_effects(study, tuned=[])
    assert all(not factor.contrasts and "together" in factor.remark for factor in effects.factors)
    assert "cannot be told" in effect_sections(effects)


def test_test_images_are_used_only_where_all_runs_have_them(tmp_path):
    sweep = load_sweep(write_sweep(tmp_path / "sweep", [0.09, 0.07, 0.08, 0.06], seeds=(0, 1), test=False))
    effects = analyse_effects(sweep)
    assert effects.measured_on == "heldout"
    assert all(math.isfinite(one.interval.mean) for one in effects.contrasts)


def test_without_replicates_the_page_warns(tmp_path):
    once = analyse_effects(load_sweep(write_sweep(tmp_path / "once", [0.09, 0.07])))
    twice = analyse_effects(load_sweep(write_sweep(tmp_path / "twice", [0.09, 0.07], seeds=(0, 1))))
    assert not once.replicated and "luck of a seed" in effect_sections(once)
    assert twice.replicated and "luck of a seed" not in effect_sections(twice)


def test_one_configuration_has_no_effects(tmp_path):
    sweep = load_sweep(write_sweep(tmp_path / "sweep", [0.09]))
    assert effect_sections(analyse_effects(sweep)) == ""


@pytest.mark.parametrize(
    "factor, level, label",
    [
        ("data.subset", "0", "all images"),
        ("data.subset", "32", "32 images"),
        ("hypernetwork.layer_norm", "true", "layer norm on"),
        ("depth", "4", "4 layers"),
        ("kind of layer norm", "off", "no layer norm"),
        ("kind of layer norm", "zero_last", "layer norm zero_last"),
        ("width", "4", "4× wide"),
        ("hypernetwork.layer_structure", "1,2,1", "1,2,1"),
        ("optim.learning_rate", "1e-3", "learning rate 1e-3"),
    ],
)
def test_levels_read_well(factor, level, label):
    assert level_label(factor, level) == label


def test_kinds_of_layer_norm_are_crossed_with_depth():
    """One kind spoils deep networks: averaged over kinds that would be blamed on layer norm itself."""
    options = {
        "hypernetwork.layer_structure": ["1,2,1", "1,2,4,2,1"],
        "hypernetwork.layer_norm": ["false", "true"],
        "hypernetwork.layer_norm_init": ["a1111", "zero_last"],
    }

    def effect(chosen):
        spoilt = chosen["hypernetwork.layer_norm"] == "true" and chosen["hypernetwork.layer_norm_init"] == "a1111"
        return 0.05 if spoilt and chosen["hypernetwork.layer_structure"] == "1,2,4,2,1" else 0.0

    study = make_study(np.random.default_rng(11), effect, options, noise=0.002)
    (interaction,) = analyse_effects(study).interactions
    assert interaction.first == "kind of layer norm"
    assert {one.level: one.claimed for one in interaction.contrasts} == {"a1111": True, "zero_last": False}
