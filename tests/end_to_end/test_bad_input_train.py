"""Bad input to train: exit 2, a message that names the option or file, and nothing written."""

import json
import shutil

import pytest

from support import BASE, checkpoints, prepare, run


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("data") / "nine", 9)


def arguments(dataset, output, *more):
    words = ["train", "--base", BASE, "--data", dataset, "--output", output, "--train.max_train_steps", "1",
             "--train.global_batch_size", "2", "--validation.steps", "0"]
    return [*words, *more]


@pytest.mark.parametrize("more, expected", [
    (["--base", "/no/such/base"], ["/no/such/base"]),
    (["--optim.learning_rat", "1"], ["optim.learning_rat", "optim.learning_rate"]),
    (["--train.train_batch_size", "4"], ["train_batch_size", "train.micro_batch_size"]),
    (["--hypernetwork.layer_structure", "2,1"], ["hypernetwork.layer_structure", "1"]),
    (["--hypernetwork.layer_structure", "1,2"], ["hypernetwork.layer_structure", "1"]),
    (["--hypernetwork.layer_structure", "1,-2,1"], ["hypernetwork.layer_structure"]),
    (["--hypernetwork.activation", "relux"], ["hypernetwork.activation", "relux", "leakyrelu"]),
    (["--hypernetwork.dropout_structure", "0,0.3"], ["hypernetwork.dropout_structure"]),
    (["--hypernetwork.dropout_structure", "0,1.5,0"], ["hypernetwork.dropout_structure"]),
    (["--hypernetwork.widths", "99"], ["hypernetwork.widths", "99"]),
    (["--train.micro_batch_size", "3", "--train.global_batch_size", "8"], ["train.global_batch_size", "train.micro_batch_size"]),
    (["--train.global_batch_size", "6"], ["power"]),
    (["--optim.learning_rate", "1e-3:100:5"], ["optim.learning_rate"]),
    (["--optim.learning_rate", "nan"], ["optim.learning_rate"]),
    (["--optim.lr_scheduler", "square"], ["optim.lr_scheduler", "cosine"]),
    (["--optim.adam_beta1", "1.0"], ["optim.adam_beta1"]),
    (["--train.max_train_steps", "99999999999999999999"], ["train.max_train_steps"]),
    (["--train.mixed_precision", "fp8"], ["train.mixed_precision", "bf16"]),
    (["--train.device", "tpu"], ["train.device", "cuda"]),
    (["--data.latent_sampling", "twice"], ["data.latent_sampling", "deterministic"]),
    (["--data.subset", "500"], ["subset", "500"]),
    (["--validation.timesteps", "3"], ["validation.timesteps"]),
    (["--caption.dropout", "1.5"], ["caption.dropout"]),
    (["--noise.rescale_betas_zero_snr", "true"], ["noise.rescale_betas_zero_snr", "predicts v"]),
    (["--noise.min_timestep", "1000"], ["noise.min_timestep"]),
    (["--method", "lokr"], ["method", "hypernetwork"]),
    (["--train.resume_from_checkpoint", "/no/such/step-00000001"], ["/no/such/step-00000001"]),
    (["--config", "/no/such.cfg"], ["/no/such.cfg"]),
    (["--config", "/tmp"], ["/tmp", "folder"]),
    (["stray"], ["stray"]),
])
def test_options(dataset, tmp_path, more, expected):
    output = run(arguments(dataset, tmp_path / "run", *more), code=2)
    for text in expected:
        assert text in output, output
    assert not (tmp_path / "run").exists()


def test_a_rank_count_that_does_not_fit(dataset, tmp_path):
    output = run(arguments(dataset, tmp_path / "run"), ranks=4, code=2)
    assert "ranks" in output and "1, 2" in output
    assert not (tmp_path / "run").exists()


def damaged(dataset, tmp_path):
    return shutil.copytree(dataset, tmp_path / "damaged")


def test_a_corrupted_part_fails_its_checksum(dataset, tmp_path):
    copy = damaged(dataset, tmp_path)
    part = next(copy.glob("part-*.h5"))
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    output = run(arguments(copy, tmp_path / "run"), code=2)
    assert part.name in output and "sha256" in output
    assert not (tmp_path / "run").exists()


def test_a_dataset_of_another_vae(dataset, tmp_path):
    copy = damaged(dataset, tmp_path)
    index = json.loads((copy / "index.json").read_text())
    index["vae_sha256"] = "0" * 64
    (copy / "index.json").write_text(json.dumps(index))
    output = run(arguments(copy, tmp_path / "run"), code=2)
    assert "VAE" in output and str(copy) in output
    assert not (tmp_path / "run").exists()


def test_a_missing_dataset(tmp_path):
    output = run(arguments(tmp_path / "nothing", tmp_path / "run"), code=2)
    assert str(tmp_path / "nothing") in output


def test_an_output_folder_that_holds_another_run(dataset, tmp_path):
    run(arguments(dataset, tmp_path / "run"))
    before = checkpoints(tmp_path / "run")
    output = run(arguments(dataset, tmp_path / "run"), code=2)
    assert "holds a run" in output
    output = run(arguments(dataset, tmp_path / "run", "--train.resume_from_checkpoint", "latest", "--train.seed", "5"), code=2)
    assert "train.seed" in output
    assert checkpoints(tmp_path / "run") == before


def test_a_damaged_checkpoint_is_not_resumed(dataset, tmp_path):
    run(arguments(dataset, tmp_path / "run"))
    parameters = next((tmp_path / "run").glob("checkpoints/*/parameters.safetensors"))
    data = bytearray(parameters.read_bytes())
    data[-1] ^= 1
    parameters.write_bytes(data)
    output = run(arguments(dataset, tmp_path / "run", "--train.resume_from_checkpoint", "latest"), code=2)
    assert str(parameters) in output and "damaged" in output


def test_nan_stops_before_the_update_and_keeps_the_last_good_state(dataset, tmp_path):
    output = run(arguments(dataset, tmp_path / "run", "--optim.learning_rate", "1e30", "--train.max_train_steps", "20",
                           "--train.max_grad_norm", "0"), code=1)
    assert "not finite" in output and "optim.learning_rate" in output
    assert checkpoints(tmp_path / "run")
