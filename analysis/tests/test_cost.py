from ldmtune_analysis import load_sweep
from ldmtune_analysis.cost import cost_section, pareto_front
from synthetic import write_sweep


def test_the_front_holds_what_nothing_beats(tmp_path):
    # Parameters are 1000, 2000, 3000, 4000 in this order.
    configurations = load_sweep(write_sweep(tmp_path / "sweep", [0.09, 0.095, 0.07, 0.06])).configurations
    front = pareto_front(configurations, "trainable_parameters", "test_loss")
    assert [one.mean("trainable_parameters") for one in front] == [1000, 3000, 4000]


def test_costs_that_are_unknown_or_all_alike_are_left_out(tmp_path):
    configurations = load_sweep(write_sweep(tmp_path / "sweep", [0.09, 0.07])).configurations
    assert pareto_front(configurations, "tflops", "test_loss") == []
    page = cost_section(configurations, "test")
    assert "trainable parameters" in page and "counted TFLOP" not in page
    assert cost_section(configurations[:1], "test") == ""
    assert "adjacent" not in page


def test_drift_is_a_cost_too(tmp_path):
    sweep = write_sweep(tmp_path / "sweep", [0.09, 0.07], drifts=[0.001, 0.004])
    page = cost_section(load_sweep(sweep).configurations, "test")
    assert "drift on adjacent concepts" in page and "should have changed nothing" in page
