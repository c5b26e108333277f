"""inspect says what things are and finds every damage; export makes a hypernetwork .pt of a checkpoint."""

import json
import shutil

import h5py
import pytest
import torch
from safetensors.torch import load_file, save_file
from support import BASE, IMAGES, prepare, run, sha256

STEPS = 2


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a dataset `set` and a finished run `run`."""
    folder = tmp_path_factory.mktemp("made")
    prepare(folder / "set", 9, "--images_per_part", "5")
    run(["train", "--base", BASE, "--data", folder / "set", "--output", folder / "run", "--train.max_train_steps", STEPS,
         "--train.global_batch_size", "2", "--train.micro_batch_size", "2", "--validation.steps", "0",
         "--hypernetwork.layer_structure", "1,2,4,1", "--hypernetwork.activation", "swish", "--hypernetwork.layer_norm",
         "--hypernetwork.layer_norm_init", "ones", "--hypernetwork.dropout_structure", "0,0.1,0.2,0",
         "--hypernetwork.name", "demo", "--optim.learning_rate", "1e-3"])
    return folder


def checkpoint(made):
    return made / "run" / "checkpoints" / f"step-{STEPS:08d}"


def damage(path, at=None):
    """Flips one bit of a file, in the middle unless told where."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 1
    path.write_bytes(data)


def test_says_what_things_are(made, tmp_path):
    output = run(["inspect", made / "set", made / "run", checkpoint(made), BASE, IMAGES / "02600.png",
                  made / "set" / "part-00000.h5", BASE / "unet" / "diffusion_pytorch_model.safetensors"])
    for text in ("latent dataset", "samples: 9", "parts: 2, all checksums hold", "train 64x64: 7 samples",
                 "run folder", "checkpoint, all checksums hold", f"step: {STEPS}", "base model", "context widths: 128, 160, 192",
                 "image of 128x128 pixels", "HDF5 part of a latent dataset", "bucket 64x64: 5 samples, checksums hold",
                 "safetensors", "conv_in.weight"):
        assert text in output, output
    torch.save({"string_to_param": {"*": torch.zeros(2, 8)}, "name": "cat"}, tmp_path / "cat.pt")
    assert "textual inversion embedding" in run(["inspect", tmp_path / "cat.pt"])


def test_finds_damage(made, tmp_path):
    def damaged(source, file, at=None):
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(source, tmp_path / "copy")
        damage(tmp_path / "copy" / file, at)
        return run(["inspect", tmp_path / "copy"], code=2)

    assert "part-00001.h5" in damaged(made / "set", "part-00001.h5")
    assert "captions" in damaged(made / "set", "captions.jsonl", at=-20)
    assert "parameters.safetensors" in damaged(checkpoint(made), "parameters.safetensors")
    assert "state.json" in damaged(checkpoint(made), "state.json")
    assert "parameters.safetensors" in damaged(
        made / "run", f"checkpoints/step-{STEPS:08d}/parameters.safetensors")
    shutil.copy(made / "set" / "part-00000.h5", tmp_path / "part.h5")
    damage(tmp_path / "part.h5")
    assert "part.h5" in run(["inspect", tmp_path / "part.h5"], code=2)


@pytest.mark.parametrize("content, expected", [
    (b"hello, world, what is this", "expected a safetensors"),
    (b"", "expected a safetensors"),
    (b"PK\x03\x04 cut", "thing"),
    (b"\x89HDF\r\n\x1a\n cut", "thing"),
    (b"\x89PNG\r\n\x1a\n cut", "thing"),
    (b"\x10\0\0\0\0\0\0\0{broken json...}", "thing"),
])
def test_refuses_what_is_nothing(tmp_path, content, expected):
    (tmp_path / "thing").write_bytes(content)
    assert expected in run(["inspect", tmp_path / "thing"], code=2)


def test_refuses_folders_and_paths(tmp_path):
    assert "found none of them" in run(["inspect", tmp_path], code=2)
    assert "no such file" in run(["inspect", tmp_path / "none"], code=2)
    assert "FILE or FOLDER" in run(["inspect"], code=2)
    assert "depth" in run(["inspect", tmp_path, "--depth", "2"], code=2)


def test_export_equals_the_runs_own_file(made, tmp_path):
    run(["export", checkpoint(made), "--format", "a1111", "--output", tmp_path / "demo.pt"])
    file = torch.load(tmp_path / "demo.pt", weights_only=True)
    assert file["name"] == "demo" and file["step"] == STEPS and file["activation_func"] == "swish"
    assert file["layer_structure"] == [1.0, 2.0, 4.0, 1.0] and file["is_layer_norm"] is True
    parameters = load_file(checkpoint(made) / "parameters.safetensors")
    found = {f"{width}.{role}.{key}": value for width in file if isinstance(width, int)
             for role, state in zip("kv", file[width]) for key, value in state.items()}
    assert found.keys() == parameters.keys()
    assert all(torch.equal(found[name], parameters[name]) for name in found)
    # The checkpoint's own copy, and an export from the run folder, say the same.
    own = torch.load(checkpoint(made) / "demo.pt", weights_only=True)
    assert own.keys() == file.keys()
    run(["export", made / "run", "--output", tmp_path / "again" / ".." / "named.pt", "--name", "other"], code=2)
    run(["export", made / "run", "--output", tmp_path / "named.pt", "--name", "other"])
    assert torch.load(tmp_path / "named.pt", weights_only=True)["name"] == "other"
    output = run(["inspect", tmp_path / "demo.pt"])
    for text in ("hypernetwork (AUTOMATIC1111 .pt)", "name: demo", f"step: {STEPS}", "layer structure: 1, 2, 4, 1",
                 "activation: swish", "layer norm: yes", "dropout: 0, 0.1, 0.2, 0", "context widths: 128, 160, 192"):
        assert text in output, output
    run(["sample", "--base", BASE, "--prompt", "rocket", "--hypernetwork", f"{tmp_path / 'demo.pt'}:0.5",
         "--num_inference_steps", "2", "--trace", tmp_path / "trace.h5"])
    with h5py.File(tmp_path / "trace.h5") as trace:
        text = json.loads(trace.attrs["parameters"])[0]
        assert f"Hypernet: demo, Hypernet hash: {sha256(tmp_path / 'demo.pt')[:10]}, Hypernet strength: 0.5" in text


def test_a_hypernetwork_of_another_base(made, tmp_path):
    run(["export", checkpoint(made), "--output", tmp_path / "demo.pt"])
    file = torch.load(tmp_path / "demo.pt", weights_only=True)
    small = {320: tuple({key: value.new_zeros([320 * size // 128 for size in value.shape]) for key, value in state.items()}
                        for state in file[128])}
    torch.save({**small, **{key: value for key, value in file.items() if isinstance(key, str)}}, tmp_path / "other.pt")
    output = run(["sample", "--base", BASE, "--prompt", "x", "--hypernetwork", tmp_path / "other.pt",
                  "--output", tmp_path / "grid.png"], code=2)
    assert "another base" in output and "320" in output and "128, 160, 192" in output
    assert not (tmp_path / "grid.png").exists()


def test_export_refuses(made, tmp_path):
    target = ["--output", tmp_path / "x.pt"]
    assert "expected one CHECKPOINT" in run(["export", *target], code=2)
    assert "no complete checkpoint" in run(["export", made / "set", *target], code=2)
    assert "expected a checkpoint folder" in run(["export", tmp_path / "none", *target], code=2)
    assert "format" in run(["export", checkpoint(made), "--format", "ldm", *target], code=2)
    assert "option output is missing" in run(["export", checkpoint(made)], code=2)
    assert ".pt" in run(["export", checkpoint(made), "--output", tmp_path / "x.bin"], code=2)
    shutil.copytree(checkpoint(made), tmp_path / "copy")
    damage(tmp_path / "copy" / "parameters.safetensors")
    assert "damaged" in run(["export", tmp_path / "copy", *target], code=2)
    # Whole by its manifest, but a parameter is missing.
    tensors = load_file(checkpoint(made) / "parameters.safetensors")
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, tmp_path / "copy" / "parameters.safetensors")
    manifest = json.loads((tmp_path / "copy" / "MANIFEST.json").read_text())
    manifest["sha256"]["parameters.safetensors"] = sha256(tmp_path / "copy" / "parameters.safetensors")
    (tmp_path / "copy" / "MANIFEST.json").write_text(json.dumps(manifest))
    assert "disagree" in run(["export", tmp_path / "copy", *target], code=2)
    assert not (tmp_path / "x.pt").exists()
    (tmp_path / "x.pt").write_text("mine")
    assert "is there already" in run(["export", checkpoint(made), *target], code=2)
    assert (tmp_path / "x.pt").read_text() == "mine"
