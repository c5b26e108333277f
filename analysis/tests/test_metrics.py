"""Sample metrics with tiny random models: the numbers mean nothing, but where they must be 1 or 0 they are."""

import json

import numpy as np
import pytest
import torch
from ldmtune_analysis import load_sweep
from ldmtune_analysis.__main__ import main
from ldmtune_analysis.metrics import kernel_distance, measure_samples
from ldmtune_analysis.report import render
from synthetic import write_sweep


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    from transformers import (
        BitImageProcessor,
        CLIPConfig,
        CLIPImageProcessor,
        CLIPModel,
        CLIPProcessor,
        CLIPTokenizer,
        Dinov2Config,
        Dinov2Model,
    )

    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    vocabulary = {
        word: i for i, word in enumerate([*letters, *(c + "</w>" for c in letters), ",</w>", "<start>", "<end>"])
    }
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    special = {"bos_token": "<start>", "eos_token": "<end>", "unk_token": "<end>", "pad_token": "<end>"}
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), **special)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {
        **size,
        "vocab_size": len(vocabulary),
        "max_position_embeddings": 40,
        "bos_token_id": 53,
        "eos_token_id": 54,
    }
    config = CLIPConfig(text_config=text, vision_config={**size, "image_size": 32, "patch_size": 8}, projection_dim=8)
    crop = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    tokenizer.model_max_length = 40
    CLIPModel(config).save_pretrained(folder / "clip")
    CLIPProcessor(CLIPImageProcessor(**crop), tokenizer).save_pretrained(folder / "clip")
    Dinov2Model(
        Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8)
    ).save_pretrained(folder / "dino")
    BitImageProcessor(**crop).save_pretrained(folder / "dino")
    return folder


def test_all_metrics_of_all_columns(tmp_path, models):
    sweep = load_sweep(write_sweep(tmp_path / "sweep", [0.09, 0.07]))
    file = measure_samples(sweep, models / "clip", models / "dino")
    columns = json.loads(file.read_text())["columns"]
    assert set(columns) == {"base", "000-00000000", "001-00000001", "real", "roundtrip"}
    for column in columns.values():
        assert set(column) == {"saturation", "clip_t", "clip_i", "dino", "kid"}
        assert all(np.isfinite(value) for value in column.values())
        assert all(-1.001 <= column[name] <= 1.001 for name in ("clip_t", "clip_i", "dino"))
    assert columns["real"]["clip_i"] == pytest.approx(1, abs=1e-5)
    assert columns["real"]["dino"] == pytest.approx(1, abs=1e-5)
    assert columns["base"]["dino"] < 0.99999, "coloured pictures are not the grey ones"
    assert columns["base"]["saturation"] > 0.1
    page = render(sweep)
    assert "CLIP-T" in page and "KID" in page and "Not measured for want" not in page


def test_without_models_saturation_is_measured_and_the_rest_said_to_be_absent(tmp_path, capsys):
    folder = write_sweep(tmp_path / "sweep", [0.09])
    assert "Not measured." in render(load_sweep(folder))
    assert main(["metrics", str(folder)]) == 0
    page = render(load_sweep(folder))
    assert "Not measured for want of a model: CLIP, DINO" in page and "saturation" in page
    capsys.readouterr()
    assert main(["metrics", str(folder), "--clip", str(tmp_path / "no-model")]) == 2
    assert "no-model" in capsys.readouterr().err


def test_without_pictures_it_says_what_to_do(tmp_path, capsys):
    folder = write_sweep(tmp_path / "sweep", [0.09], pictures=False)
    assert main(["metrics", str(folder)]) == 2
    assert "sweep.pictures" in capsys.readouterr().err


def test_kernel_distance_is_small_for_alike_and_grows():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(40, 8)), rng.normal(size=(40, 8))
    assert abs(kernel_distance(a, b)) < 0.5 * kernel_distance(a, b + 2)

    # The unbiased estimate of Binkowski et al. 2018: (x.y / d + 1)^3 over pairs of different elements.
    def kernel(x, y):
        return (x @ y.T / 8 + 1) ** 3

    def among(x):
        table = kernel(x, x)
        return (table.sum() - np.trace(table)) / (40 * 39)

    assert kernel_distance(a, b) == pytest.approx(among(a) + among(b) - 2 * kernel(a, b).mean(), rel=1e-4)
