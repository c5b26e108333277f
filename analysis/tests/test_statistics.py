import numpy as np
import pandas as pd
import pytest
from ldmtune_analysis.statistics import crossed_interval, holm, paired_interval, pooled_luck, t_quantile, two_sided_p


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


def test_the_variance_is_that_of_resampling_rows_and_columns():
    """The closed form against 20,000 resamples of replicates and images (each part carries n / (n - 1))."""
    rng = np.random.default_rng(6)
    rows, images = 12, 20
    losses = (
        0.3 * rng.normal(size=(rows, 1)) + 0.2 * rng.normal(size=(1, images)) + 0.02 * rng.normal(size=(rows, images))
    )
    row_weights = rng.multinomial(rows, np.full(rows, 1 / rows), size=20_000) / rows
    image_weights = rng.multinomial(images, np.full(images, 1 / images), size=20_000) / images
    resampled = ((row_weights @ losses) * image_weights).sum(1)
    interval = crossed_interval(losses)
    # The correction's share: (1 - 1/n) of each part is what plain resampling shows.
    expected = np.sqrt(losses.mean(1).var() / rows + losses.mean(0).var() / images)
    assert resampled.std() == pytest.approx(expected, rel=0.03)
    corrected = np.sqrt(losses.mean(1).var(ddof=1) / rows + losses.mean(0).var(ddof=1) / images)
    reach = (interval.high - interval.low) / 2
    assert 1.96 * corrected < reach < 2.3 * corrected


@pytest.mark.parametrize("t, degrees, p", [(2.365, 7, 0.05), (12.706, 1, 0.05), (1.962, 1000, 0.05), (3.499, 7, 0.01)])
def test_p_values_equal_the_tables(t, degrees, p):
    assert two_sided_p(t, degrees) == pytest.approx(p, rel=4e-3)
    assert two_sided_p(-t, degrees) == two_sided_p(t, degrees)


def test_p_and_interval_agree():
    values = np.random.default_rng(8).normal(0.3, 1, size=12)
    interval = paired_interval(values, np.zeros(12))
    assert (interval.p < 0.05) != interval.holds_zero
    at_its_p = paired_interval(values, np.zeros(12), level=1 - interval.p)
    assert min(abs(at_its_p.low), abs(at_its_p.high)) < 1e-3


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.01, float("nan")])[0] == pytest.approx(0.01) and np.isnan(holm([0.01, float("nan")])[1])
    assert holm([0.01, 0.02], family=10) == pytest.approx([0.1, 0.18])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_pooled_luck_is_what_cells_and_replicates_leave():
    rng = np.random.default_rng(9)
    cells, replicates = np.repeat(np.arange(200), 4), np.tile(np.arange(4), 200)
    losses = 5.0 * cells + 0.7 * replicates + 0.1 * rng.normal(size=800)
    luck = pooled_luck(cells, replicates, losses)
    assert luck.degrees == 597
    assert luck.variance == pytest.approx(0.01, rel=0.1)
    assert pooled_luck([1, 2], [0, 0], [0.1, 0.2]) is None


def test_three_lucky_seeds_are_not_trusted():
    """Seeds that agree by chance: their own spread says 'certain', that of all runs does not."""
    from ldmtune_analysis.statistics import RunLuck

    rng = np.random.default_rng(10)
    agreeing = pd.DataFrame(0.1 + 1e-4 * rng.normal(size=(16, 3)))
    assert paired_interval(agreeing - 0.004, agreeing).below_zero
    assert paired_interval(agreeing - 0.004, agreeing, luck=RunLuck(0.01**2, 40)).holds_zero
