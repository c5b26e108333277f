"""kohya's folders, tags and their repeats, from images to the token ids that a run trains on."""

import json
import pathlib
import shutil
import sys

import h5py
import numpy as np
import pytest
from transformers import CLIPTokenizer

import philox

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "end_to_end"))
from support import BASE, IMAGES, checkpoints, run  # noqa: E402

SEED, DATA_SEED, STEPS, LEAVES, MICRO = 11, 3, 4, 4, 2
KEEP, TAG_DROPOUT, DROPOUT = 1, 0.3, 0.1
TAGS = "pencil, small, round, on white, drawn by hand"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Five images of 3 repeats with tags, three of 1 repeat with the folder's name as caption."""
    folder = tmp_path_factory.mktemp("kohya")
    files = sorted(IMAGES.glob("*.png"))[:8]
    for i, file in enumerate(files):
        place = folder / "images" / ("3_tagged" if i < 5 else "1_plain thing, tag")
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
        if i < 5:
            (place / file.with_suffix(".txt").name).write_text(f"image {i}, {TAGS}")
    run(["prepare", "--base", BASE, "--images", folder / "images", "--output", folder / "set", "--validation_images", 0,
         "--test_images", 0])
    return folder / "set"


def read_captions(dataset):
    return [json.loads(line) for line in (dataset / "captions.jsonl").read_text().splitlines()]


def test_repeats_and_captions(dataset):
    captions = read_captions(dataset)
    assert [caption.get("repeats", 1) for caption in captions] == [1] * 3 + [3] * 5
    assert all("repeats" not in caption for caption in captions[:3]), "one is not written"
    assert captions[0]["text"] == "plain thing, tag" and captions[0]["source"].startswith("1_plain thing, tag/")
    assert captions[3]["text"] == f"image 0, {TAGS}"


def vary(text, draw):
    """The caption as trained, from the documented numbers."""
    if philox.Stream(SEED, "caption_dropout", 0, draw).uniform(1)[0] < DROPOUT:
        return ""
    tags = [tag.strip() for tag in text.split(",") if tag.strip()]
    kept, others = tags[:KEEP], tags[KEEP:]
    numbers = philox.Stream(SEED, "tag_dropout", 0, draw).uniform(max(len(others), 1))
    left = [tag for tag, number in zip(others, numbers) if number >= TAG_DROPOUT]
    order = philox.Stream(SEED, "caption_tags", 0, draw).permutation(len(left))
    return ", ".join(kept + [left[place] for place in order])


def train(dataset, output, *options, ranks=1):
    run(["train", "--base", BASE, "--data", dataset, "--output", output, "--train.seed", SEED, "--data.seed", DATA_SEED,
         "--train.max_train_steps", STEPS, "--train.global_batch_size", LEAVES * MICRO, "--train.micro_batch_size", MICRO,
         "--hypernetwork.layer_structure", "1,1", "--validation.steps", 0, "--caption.shuffle_tags", "true",
         "--caption.keep_tokens", KEEP, "--caption.tag_dropout", TAG_DROPOUT, "--caption.dropout", DROPOUT, *options],
        ranks=ranks)


def test_a_run_trains_on_the_documented_captions(dataset, tmp_path):
    train(dataset, tmp_path / "run", "--train.trace", tmp_path / "trace.h5", "--train.trace_steps", STEPS)
    tokenizer = CLIPTokenizer.from_pretrained(BASE / "tokenizer")
    captions = read_captions(dataset)
    rows = [i for i, caption in enumerate(captions) for _ in range(caption.get("repeats", 1))]
    stream = philox.SampleStream([len(rows)], DATA_SEED, SEED, 0, MICRO)
    seen = set()
    with h5py.File(tmp_path / "trace.h5") as trace:
        for step in range(STEPS):
            for leaf in range(LEAVES):
                group = trace[f"step_{step + 1:06d}/micro_{leaf:04d}"]
                draws = stream.micro_batch(step * LEAVES + leaf)
                assert list(group["sample_id"]) == [captions[rows[draw.row]]["sample_id"] for draw in draws]
                texts = [vary(captions[rows[draw.row]]["text"], draw.draw) for draw in draws]
                expected = tokenizer(texts, padding="max_length", truncation=True).input_ids
                assert np.array_equal(group["input_ids"][()], expected)
                seen.update(texts)
    assert len(seen) > 15


def test_same_bits_on_two_ranks(dataset, tmp_path):
    options = ["--caption.weights", "true", "--caption.clip_skip", 2, "--caption.template", "a ({}:1.2), [pencil]"]
    train(dataset, tmp_path / "one", *options)
    train(dataset, tmp_path / "two", *options, ranks=2)
    train(dataset, tmp_path / "literal", *options, "--caption.weights", "false")
    assert checkpoints(tmp_path / "one") == checkpoints(tmp_path / "two")
    assert checkpoints(tmp_path / "one") != checkpoints(tmp_path / "literal")
