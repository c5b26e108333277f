"""sample: the same pictures on any number of ranks, a labelled grid, and clear errors."""

import json

import h5py
import numpy as np
import pytest
import support
from PIL import Image
from support import BASE, run, sha256

QUICK = ["--num_inference_steps", "2", "--guidance_scale", "3"]
PROMPTS = "rocket on a white background | red apple on a blue background"


@pytest.fixture(autouse=True)
def ended_at_once(monkeypatch):
    """mpirun waits this long, twice, after any exit code but 0; nothing here writes checkpoints meanwhile."""
    settings = dict(support.environment(), OMPI_MCA_odls_base_sigkill_timeout="1")
    monkeypatch.setattr(support, "environment", lambda: settings)


def sample(*options, ranks=1, code=0):
    return run(["sample", "--base", BASE, *QUICK, *options], ranks=ranks, code=code)


def test_any_number_of_ranks(tmp_path):
    for ranks in (1, 2, 3):
        folder = tmp_path / str(ranks)
        folder.mkdir()
        sample("--prompt", PROMPTS, "--num_images", 2, "--output", folder / "grid.png", "--output_dir", folder / "single",
               "--trace", folder / "trace.h5", ranks=ranks)
        hashes = {str(path.relative_to(folder)): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}
        assert len(hashes) == 6
        if ranks == 1:
            expected = hashes
        assert hashes == expected


def test_a_picture_does_not_depend_on_the_others(tmp_path):
    sample("--prompt", PROMPTS, "--num_images", 3, "--output_dir", tmp_path / "many")
    sample("--prompt", "rocket on a white background", "--output_dir", tmp_path / "one")
    assert sha256(tmp_path / "many" / "image-000-000.png") == sha256(tmp_path / "one" / "image-000-000.png")
    sample("--prompt", "rocket on a white background", "--output_dir", tmp_path / "other", "--seed", 1)
    assert sha256(tmp_path / "other" / "image-000-000.png") != sha256(tmp_path / "one" / "image-000-000.png")


def test_prompts_may_be_given_again(tmp_path):
    sample("--prompt", "rocket", "--prompt", "apple", "--trace", tmp_path / "trace.h5")
    sample("--prompt", "rocket | apple", "--trace", tmp_path / "same.h5")
    with h5py.File(tmp_path / "trace.h5") as trace, h5py.File(tmp_path / "same.h5") as same:
        assert trace["image"].shape == (2, 64, 64, 3)
        for name in ("initial_noise", "final_latent", "image", "context"):
            assert np.array_equal(trace[name][()], same[name][()])


def test_grid_is_scaled_and_wrapped(tmp_path):
    sample("--prompt", "rocket", "--num_images", 5, "--columns", 2, "--scale", 2, "--output", tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as image:
        assert 2 * 128 <= image.width < 3 * 128 + 200 and 3 * 128 <= image.height < 4 * 128


def test_axes(tmp_path):
    """x, y and z make a grid; each picture is what its settings alone draw."""
    sample("--prompt", "rocket", "--x", "seed=1,2", "--y", "steps=2,3", "--z", "sampler=ddim,dpmpp_2m", "--trace",
           tmp_path / "plot.h5", "--output", tmp_path / "plot.png", ranks=2)
    with h5py.File(tmp_path / "plot.h5") as trace:
        images, settings = trace["image"][()], json.loads(trace.attrs["parameters"])
    assert images.shape[0] == 8
    wanted = [(sampler, steps, seed) for sampler in ("DDIM", "DPM++ 2M") for steps in (2, 3) for seed in (1, 2)]
    for text, (sampler, steps, seed) in zip(settings, wanted):
        assert f"Steps: {steps}, Sampler: {sampler}, CFG scale: 3, Seed: {seed}, " in text
    sample("--prompt", "rocket", "--seed", 2, "--num_inference_steps", 3, "--sampler", "dpmpp_2m", "--trace", tmp_path / "one.h5")
    with h5py.File(tmp_path / "one.h5") as trace:
        assert np.array_equal(trace["image"][0], images[7])
    assert len({image.tobytes() for image in images}) == 8


def test_long_prompts_warn_unless_they_have_chunks(tmp_path):
    prompt = " and ".join(["rocket"] * 20)
    assert "--max_chunks" in sample("--prompt", prompt, "--trace", tmp_path / "cut.h5")
    assert "--max_chunks" not in sample("--prompt", prompt, "--max_chunks", 4, "--trace", tmp_path / "whole.h5")
    with h5py.File(tmp_path / "whole.h5") as trace:
        assert trace["context"].shape == (1, 2, 96, 160)


@pytest.mark.parametrize("options, expected", [
    ([], ["--prompt"]),
    (["--prompt", "x", "--width", "65"], ["width", "multiple of 4"]),
    (["--prompt", "x", "--sampler", "dpm"], ["dpm", "ddim", "euler"]),
    (["--prompt", "x", "--num_inference_steps", "0"], ["num_inference_steps"]),
    (["--prompt", "x", "--num_inference_steps", "1001"], ["num_inference_steps", "1000"]),
    (["--prompt", "x", "--guidance_scale", "-1"], ["guidance_scale"]),
    (["--prompt", "x", "--guidance_scale", "nan"], ["guidance_scale"]),
    (["--prompt", "x", "--num_images", "0"], ["num_images"]),
    (["--prompt", "x", "--strengths", "0,1"], ["strengths", "--hypernetwork"]),
    (["--prompt", "x", "--x", "steps"], ["option x", "steps"]),
    (["--prompt", "x", "--x", "stepz=1"], ["option x", "stepz", "guidance"]),
    (["--prompt", "x", "--y", "steps=1,two"], ["option y", "steps", "two"]),
    (["--prompt", "x", "--z", "sampler=ddim,dpm"], ["option z", "dpm", "dpmpp_2m"]),
    (["--prompt", "x", "--z", "seed=1,,2"], ["option z", "seed"]),
    (["--prompt", "x", "--y", "lora_strength=0,1"], ["option y", "lora_strength", "--lora"]),
    (["--prompt", "x", "--y", "embedding_strength=0,1"], ["option y", "--embedding"]),
    (["--prompt", "x", "--embedding", "/no/such.pt", "--x", "strength=0,1", "--prompt_weights", "false"],
     ["option x", "--prompt_weights"]),
    (["--prompt", "x", "--x", "checkpoint=/no/such.pt"], ["/no/such.pt"]),
    (["--prompt", "x", "--clip_skip", "5"], ["clip_skip", "4"]),
    (["--prompt", "x", "--hypernetwork", "/no/such.pt"], ["/no/such.pt"]),
    (["--prompt", "x", "--hypernetwork", "/no/such.pt:0.5"], ["/no/such.pt"]),
    (["--prompt", "x", "--base", "/no/such/base"], ["/no/such/base"]),
    (["--prompt", "x", "--device", "tpu"], ["device", "cuda"]),
    (["--prompt", "x", "--steps", "3"], ["steps"]),
    (["a", "cat"], ["--prompt"]),
])
def test_bad_input(tmp_path, options, expected):
    output = sample("--output", tmp_path / "grid.png", *options, code=2)
    for text in expected:
        assert text in output, output
    assert not list(tmp_path.iterdir())


def test_bad_places(tmp_path):
    assert "does not exist" in sample("--prompt", "x", "--output", tmp_path / "none" / "grid.png", code=2)
    assert ".png" in sample("--prompt", "x", "--output", tmp_path / "grid.jpg", code=2)
    assert "--output" in sample("--prompt", "x", code=2)
    (tmp_path / "folder.png").mkdir()
    assert "is a folder" in sample("--prompt", "x", "--output", tmp_path / "folder.png", ranks=2, code=2)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


def test_help():
    for command in ("prepare", "sample", "inspect", "export", "import"):
        output = run([command, "--help"])
        assert f"ldmtune {command}" in output and "Usage" in output
        assert output.count("\n  ldmtune ") + output.count("\n  mpirun ") >= 1, "an example"
