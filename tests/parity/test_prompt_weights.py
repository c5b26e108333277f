"""Prompt weights, BREAK and clip_skip as AUTOMATIC1111 has them, recomputed in Python with transformers."""

import re

import pytest
import torch
from test_generate import error, pipeline, sample  # noqa: F401 (a fixture)

TOLERANCE = 1e-4

# What each match means is decided below; BREAK is looked for inside plain runs.
TOKEN = re.compile(r"\\[()\[\]\\]|\\|\(|\[|:\s*([+-]?[.\d]+)\s*\)|\)|\]|[^\\()\[\]:]+|:")
BREAK = re.compile(r"\s*\bBREAK\b\s*")


def parse(prompt):
    """[text, weight] pairs; None as text is a BREAK."""
    parts, opened = [], {"(": [], "[": []}

    def scale(begin, weight):
        for part in parts[begin:]:
            part[1] *= weight

    for match in TOKEN.finditer(prompt):
        text, weight = match.group(0), match.group(1)
        if text.startswith("\\"):
            parts.append([text[1:], 1.0])
        elif text in opened:
            opened[text].append(len(parts))
        elif weight is not None and opened["("]:
            scale(opened["("].pop(), float(weight))
        elif text == ")" and opened["("]:
            scale(opened["("].pop(), 1.1)
        elif text == "]" and opened["["]:
            scale(opened["["].pop(), 1 / 1.1)
        else:
            for i, piece in enumerate(BREAK.split(text)):
                if i > 0:
                    parts.append([None, -1.0])
                parts.append([piece, 1.0])
    for begin in opened["("]:
        scale(begin, 1.1)
    for begin in opened["["]:
        scale(begin, 1 / 1.1)
    merged = []
    for text, weight in parts:
        if merged and text is not None and merged[-1][0] is not None and merged[-1][1] == weight:
            merged[-1][0] += text
        else:
            merged.append([text, weight])
    return merged


def chunks_of(prompt, tokenizer, count):
    """Token ids and weights, (count, length)."""
    length, rows, row = tokenizer.model_max_length, [], []
    for text, weight in parse(prompt):
        if text is None:
            rows.append(row)
            row = []
            continue
        for token in tokenizer(text, add_special_tokens=False).input_ids:
            if len(row) == length - 2:
                rows.append(row)
                row = []
            row.append((token, weight))
    rows.append(row)
    rows = (rows + [[]] * count)[:count]
    start, end, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    ids = [[start, *(t for t, _ in row), end] + [pad] * (length - 2 - len(row)) for row in rows]
    weights = [[1.0, *(w for _, w in row)] + [1.0] * (length - 1 - len(row)) for row in rows]
    return torch.tensor(ids), torch.tensor(weights)


def context_of(pipe, prompt, chunks=1, clip_skip=1):
    ids, weights = chunks_of(prompt, pipe.tokenizer, chunks)
    parts = []
    for row, weight in zip(ids, weights):
        with torch.no_grad():
            states = pipe.text_encoder(row[None], output_hidden_states=True).hidden_states
            norm = next(m for n, m in pipe.text_encoder.named_modules() if n.endswith("final_layer_norm"))
            hidden = norm(states[-clip_skip])
        weighted = hidden * weight[None, :, None]
        parts.append(weighted * (hidden.mean() / weighted.mean()))
    return torch.cat(parts, dim=1)[0]


def ours(folder, prompt, *options):
    return sample(folder, "--prompt", prompt, "--num_inference_steps", 1, "--guidance_scale", 1, *options)["context"][0, 1]


PROMPTS = [
    "rocket, pencil",
    "a (rocket) on [white] background",
    "a ((rocket:1.4) on (white:0.3)) background",
    "a (rocket [on a) white] background (",
    r"rocket \(red\), (a \[big\] one:1.6) \\ end",
    "a: b:1.5) rocket] (c:x)",
    "((((rocket))))",
    "(rocket:-0.5), apple",
]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_weights(pipeline, tmp_path, prompt):  # noqa: F811
    found = ours(tmp_path, prompt, "--max_chunks", 2)
    assert error(found, context_of(pipeline, prompt, chunks=2)) < TOLERANCE


def test_weights_matter(pipeline, tmp_path):  # noqa: F811
    found = ours(tmp_path, "a (rocket:1.5)")
    assert error(found, context_of(pipeline, "a rocket")) > 0.02
    literal = ours(tmp_path, "a (rocket:1.5)", "--prompt_weights", "false")
    assert error(found, literal) > 0.02


def test_break_and_long_prompts(pipeline, tmp_path):  # noqa: F811
    prompt = "rocket BREAK (apple:1.3), " + ", ".join(["cloud"] * 20) + " BREAK moon"
    found = ours(tmp_path, prompt, "--max_chunks", 5)
    assert error(found, context_of(pipeline, prompt, chunks=5)) < TOLERANCE


@pytest.mark.parametrize("clip_skip", [1, 2, 3])
def test_clip_skip(pipeline, tmp_path, clip_skip):  # noqa: F811
    found = ours(tmp_path, "a (rocket:1.2)", "--clip_skip", clip_skip)
    assert error(found, context_of(pipeline, "a (rocket:1.2)", clip_skip=clip_skip)) < TOLERANCE
