"""A base in one file (the LDM layout) trains as its folder does, bit for bit, by every method."""

import pytest
from support import BASE, checkpoints, prepare, run, sha256

METHODS = {
    "hypernetwork": ["--hypernetwork.layer_structure", "1,1,1"],
    "lora": ["--lora.rank", "2", "--lora.text_encoder_target_modules", "q_proj"],
    "textual_inversion": ["--textual_inversion.placeholder_token", "<zorp>", "--caption.template", "[name], [filewords]",
                          "--textual_inversion.initializer_text", "pencil"],
    "dreambooth": ["--dreambooth.train_text_encoder", "true"],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The embedded base as one file, and a dataset that was prepared with it."""
    folder = tmp_path_factory.mktemp("made")
    file = folder / "base.safetensors"
    run(["export", BASE, "--format", "ldm", "--output", file])
    prepare(folder / "set", 6)
    run(["prepare", *single(file), "--images", folder / "set.images", "--output", folder / "set-of-file"])
    return folder


def single(file):
    """The file holds no vocabulary."""
    return ["--base", file, "--base.tokenizer", BASE]


def train(method, base, data, output):
    run(["train", "--method", method, *base, "--data", data, "--output", output, "--train.max_train_steps", 2,
         "--train.global_batch_size", 2, "--validation.steps", 0, "--optim.learning_rate", "1e-3", *METHODS[method]])
    return output


@pytest.mark.parametrize("method", METHODS)
def test_trains_the_same_bits_as_the_folder(made, tmp_path, method):
    of_folder = train(method, ["--base", BASE], made / "set", tmp_path / "folder")
    of_file = train(method, single(made / "base.safetensors"), made / "set-of-file", tmp_path / "file")
    assert checkpoints(of_file) == checkpoints(of_folder) and list(checkpoints(of_file)) == ["step-00000002"]
    if method == "dreambooth":
        assert_exports_agree(of_file, of_folder, tmp_path)


def assert_exports_agree(of_file, of_folder, tmp_path):
    """The diffusers folder of either run has the same bytes in every file."""
    found = {}
    for trained in (of_file, of_folder):
        model = tmp_path / f"model-of-{trained.name}"
        run(["export", trained, "--format", "diffusers", "--output", model])
        found[trained.name] = {str(path.relative_to(model)): sha256(path) for path in model.rglob("*") if path.is_file()}
    assert found["file"] == found["folder"] and "unet/diffusion_pytorch_model.safetensors" in found["file"]
