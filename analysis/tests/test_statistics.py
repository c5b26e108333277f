import numpy as np
import pandas as pd
import pytest
from ldmtune_analysis.statistics import paired_interval, t_quantile


@pytest.mark.parametrize("degrees, expected", [(1, 12.706), (2, 4.303), (7, 2.365), (30, 2.042), (1000, 1.962)])
def test_t_quantile_equals_the_tables(degrees, expected):
    assert t_quantile(0.975, degrees) == pytest.approx(expected, rel=1e-3)


def test_a_known_effect_is_found_and_its_size_right():
    rng = np.random.default_rng(1)
    base = rng.uniform(0.1, 0.4, size=40)
    tuned = base - 0.05 + 0.01 * rng.normal(size=40)
    interval = paired_interval(tuned, base)
    assert interval.below_zero and not interval.holds_zero
    assert interval.low < -0.05 < interval.high
    assert interval.high - interval.low < 0.01, "pairing takes the images' own spread (0.3) out"
    assert interval.images == 40


def test_no_effect_holds_zero():
    rng = np.random.default_rng(2)
    base = rng.uniform(0.1, 0.4, size=30)
    assert paired_interval(base + 0.01 * rng.normal(size=30), base).holds_zero


@pytest.mark.parametrize("images", [8, 30])
def test_coverage_without_an_effect(images):
    """Of intervals over images drawn afresh, about 95% hold the true difference of 0."""
    rng = np.random.default_rng(3)
    zero = np.zeros(images)
    held = [paired_interval(rng.normal(size=images), zero).holds_zero for _ in range(600)]
    assert 0.925 < np.mean(held) < 0.985


def test_seeds_widen_the_interval():
    """Images agree perfectly, seeds do not: with one seed nothing shows that, with four the interval knows."""
    rng = np.random.default_rng(4)
    base = rng.uniform(0.1, 0.4, size=20)
    seeds = np.array([-0.02, 0.01, -0.01, 0.02])
    tuned = base[:, None] - 0.005 + seeds
    assert paired_interval(tuned[:, :1], base).below_zero
    many = paired_interval(tuned, base)
    assert many.holds_zero
    assert many.seeds == 4


def test_same_seeds_are_paired():
    rng = np.random.default_rng(5)
    luck = np.array([-0.05, 0.0, 0.05])
    a = pd.DataFrame(rng.uniform(0.1, 0.4, size=(20, 1)) + luck, columns=[0, 1, 2])
    b = a + 0.01
    assert paired_interval(a, b).below_zero
    assert paired_interval(a, b.set_axis([3, 4, 5], axis=1)).holds_zero


def test_images_are_matched_by_id_and_unknown_ones_dropped():
    a = pd.Series([1.0, 2.0, 3.0, np.nan], index=[1, 2, 3, 9])
    b = pd.Series([3.5, 2.5, 0.0, 7.0], index=[3, 2, 8, 9])
    interval = paired_interval(a, b)
    assert interval.images == 2
    assert interval.mean == pytest.approx(-0.5)


def test_too_few_images_tell_nothing():
    interval = paired_interval([0.1], [0.3])
    assert interval.mean == pytest.approx(-0.2)
    assert np.isnan(interval.low) and interval.holds_zero
    assert paired_interval([], []).holds_zero


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="same images"):
        paired_interval([0.1, 0.2], [0.1])


def test_the_same_data_give_the_same_interval():
    values = np.linspace(0, 1, 12)
    assert paired_interval(values, values**2) == paired_interval(values, values**2)
