"""ldmtune bench: its figures, what it leaves behind, and what it refuses."""

import json
import re

import pytest

from support import BASE, prepare, run

QUICK = ["bench", "--base", BASE, "--hypernetwork.layer_structure", "1,0.5,1", "--hypernetwork.widths", "160",
         "--train.global_batch_size", "2", "--warmup", "1"]


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """Where the program's temporary files go: empty when the test ends."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    yield folder
    left = [path for path in folder.iterdir() if not path.name.startswith(("ompi.", "openmpi-"))]
    assert left == []


def test_figures_agree_with_each_other(tmp_path):
    report = tmp_path / "bench.json"
    said = run([*QUICK, "--steps", "3", "--json", report], cwd=tmp_path)
    found = json.loads(report.read_text())
    assert found["format"] == "ldmtune-bench" and found["version"] == 1
    assert found["ranks"] == 1 and found["device"] == "cpu" and found["steps"] == 3
    assert len(found["step_seconds"]) == 3
    assert found["seconds"] == pytest.approx(sum(found["step_seconds"]))
    assert found["steps_per_s"] == pytest.approx(3 / found["seconds"])
    assert found["samples_per_s"] == pytest.approx(2 * found["steps_per_s"])
    assert found["tflops_per_s"] == pytest.approx(found["tflop_per_step"] * found["steps_per_s"])
    assert found["share_of_peak"] == pytest.approx(found["tflops_per_s"] / found["peak_tflops_per_s"])
    assert 0.01 < found["share_of_peak"] < 1.5
    assert 100 * 2**20 < found["peak_host_bytes"] < 2 * 2**30
    for word in "steps/s", "samples/s", "TFLOP/s", "share of peak", "MiB":
        assert word in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench.json", "temporary"]


def test_the_counted_operations_are_the_plans(tmp_path):
    report = tmp_path / "bench.json"
    run([*QUICK, "--steps", "1", "--json", report])
    counted = []
    for steps in 100000, 200000:
        sweep = tmp_path / f"{steps}.sweep.cfg"
        sweep.write_text(f"base = {BASE}\ndata = {tmp_path}/none\n[sweep]\noutput = {tmp_path}/sweep{steps}\n"
                         "[hypernetwork]\nlayer_structure = 1,0.5,1\nwidths = 160\n[validation]\nsteps = 0\n"
                         f"[train]\nglobal_batch_size = 2\nmax_train_steps = {steps}\n")
        table = run(["sweep", "--config", sweep, "plan"])
        counted.append(float(re.search(r"trials, ([\d.]+) TFLOP", table).group(1)))
    # Validation is counted once for either length; the table's numbers are rounded.
    assert json.loads(report.read_text())["tflop_per_step"] == pytest.approx((counted[1] - counted[0]) / 100000, rel=0.02)


def test_a_single_file_base_counts_as_its_folder(tmp_path):
    run(["export", BASE, "--format", "ldm", "--output", tmp_path / "emoji.safetensors"])
    counted = []
    for words in [], ["--base", tmp_path / "emoji.safetensors", "--base.tokenizer", BASE]:
        run([*QUICK, *words, "--steps", "1", "--json", tmp_path / "bench.json"])
        counted.append(json.loads((tmp_path / "bench.json").read_text())["tflop_per_step"])
    assert counted[0] == counted[1] > 0


def test_a_pack_against_its_trials_in_turn_on_two_ranks(tmp_path):
    report = tmp_path / "bench.json"
    said = run([*QUICK, "--steps", "2", "--pack", "2", "--json", report], ranks=2)
    found = json.loads(report.read_text())
    assert found["ranks"] == 2 and found["pack"] == 2
    assert found["steps_per_s"] == pytest.approx(2 * 2 / found["seconds"])
    assert found["pack_ratio"] == pytest.approx(found["in_turn_cpu_seconds"] / found["cpu_seconds"])
    assert 0.3 < found["pack_ratio"] < 4
    assert said.count("share of peak") == 1 and "of 2:" in said


@pytest.mark.parametrize("method", [
    ["lora", "--lora.rank", "2"],
    ["textual_inversion", "--textual_inversion.placeholder_token", "zorp", "--textual_inversion.initializer_token", "ball"],
    ["dreambooth", "--dreambooth.train_unet", "attention", "--dreambooth.with_prior_preservation", "true"],
])
def test_other_methods(method):
    assert f"{method[0]}, " in run(["bench", "--base", BASE, "--method", *method, "--train.global_batch_size", "1", "--warmup", "0",
                                    "--steps", "1", "--resolution", "32"])


def test_a_config_file_with_its_data(tmp_path):
    data = prepare(tmp_path / "data", 4)
    config = tmp_path / "x.cfg"
    config.write_text(f"base = {BASE}\ndata = {data}\noutput = {tmp_path}/run\n[train]\nglobal_batch_size = 1\n")
    run(["bench", "--config", config, "--steps", "1", "--warmup", "0"])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("words, remedy", [
    ([], "--base BASE"),
    (["--base", BASE, "--steps", "0"], "option steps: expected 1 or more, found 0"),
    (["--base", BASE, "--resolution", "63"], "option resolution: expected a multiple of 4"),
    (["--base", BASE, "--method", "dreambooth", "--pack", "2"], "option pack"),
    (["--base", BASE / "vae/diffusion_pytorch_model.safetensors"], "base.tokenizer"),
    (["--base", BASE / "vae/diffusion_pytorch_model.safetensors", "--base.tokenizer", BASE], "VAE alone"),
    (["--base", BASE / "nowhere"], "option base"),
    (["--base", BASE, "--stepps", "3"], "steps"),
    (["--base", BASE, "--train.global_batch_size", "3"], "train.global_batch_size"),
    (["--base", BASE, "now"], "unexpected argument 'now'"),
])
def test_bad_input(words, remedy):
    assert remedy in run(["bench", *words] if words else ["bench", "--steps", "1"], code=2)
