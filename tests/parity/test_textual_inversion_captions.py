"""Two new words of several vectors in long, weighted captions at an earlier layer: all of it at once, by transformers and
diffusers. Tolerances are those of test_textual_inversion.py.
"""

import json

import h5py
import numpy as np
import torch
from test_prompt_weights import chunks_of
from test_textual_inversion import (  # noqa: F401 (fixtures)
    GRADIENT_TOLERANCE,
    LEAVES,
    MICRO,
    TOLERANCE,
    WORDS,
    dataset,
    embeddings_at,
    error,
    networks,
    options,
    run,
)

# A chunk of this base holds 22 tokens: the second word stands in the second one.
TEMPLATE = "([filewords]:1.3), one picture among many that were drawn by hand in one long afternoon, on a ([<ground>]:0.8), [bright]"
CHUNKS, CLIP_SKIP = 2, 2


def spread(text):
    """As diffusers writes a word of several vectors."""
    for word, (count, _) in WORDS.items():
        text = text.replace(word, " ".join([word] + [f"{word}_{i}" for i in range(1, count)]))
    return text


def context_of(networks, texts, embeddings):  # noqa: F811
    """(b, chunks x length, D) with gradient to the embeddings, and the token ids."""
    rows, ids = [], []
    for text in texts:
        tokens, weights = chunks_of(text, networks.tokenizer, CHUNKS)
        parts = []
        for chunk, weight in zip(tokens, weights):
            networks.context(chunk[None], embeddings)  # installs the embeddings
            states = networks.text(chunk[None], output_hidden_states=True).hidden_states
            norm = next(m for n, m in networks.text.named_modules() if n.endswith("final_layer_norm"))
            hidden = norm(states[-CLIP_SKIP])
            weighted = hidden * weight[None, :, None]
            parts.append(weighted * (hidden.mean() / weighted.mean()))
        rows.append(torch.cat(parts, dim=1)[0])
        ids.append(tokens.flatten())
    return torch.stack(rows), torch.stack(ids)


def test_words_weights_chunks_and_clip_skip_at_once(dataset, networks, tmp_path):  # noqa: F811
    run(options(dataset, tmp_path / "run", **{
        "caption.template": TEMPLATE, "caption.weights": "true", "caption.max_chunks": CHUNKS, "caption.clip_skip": CLIP_SKIP,
        "caption.dropout": 0, "train.max_train_steps": 1, "validation.steps": 0, "train.trace": tmp_path / "trace.h5"}))  # fmt: skip
    captions = {row["sample_id"]: row["text"] for row in map(json.loads, (dataset / "captions.jsonl").read_text().splitlines())}
    with h5py.File(tmp_path / "trace.h5") as trace:
        embeddings = embeddings_at(trace, 0)
        for leaf in range(LEAVES):
            micro = {name: torch.tensor(value[()]) for name, value in trace[f"step_000001/micro_{leaf:04d}"].items()}
            texts = [spread(TEMPLATE.replace("[filewords]", captions[int(i)])) for i in micro["sample_id"]]
            context, ids = context_of(networks, texts, embeddings)
            assert np.array_equal(micro["input_ids"], ids)
            second = ids[:, ids.shape[1] // CHUNKS :]
            assert all(int((second == token).sum()) == MICRO for token in networks.ids["<ground>"]), "in the second chunk"
            assert error(micro["context"], context.detach()) < TOLERANCE
            prediction = networks.unet(micro["noisy"], micro["timestep"], context).sample
            assert error(micro["prediction"], prediction.detach()) < TOLERANCE
            loss = ((prediction - micro["target"]) ** 2).mean(dim=(1, 2, 3))
            (loss.sum() / (LEAVES * MICRO)).backward()
        for word, embedding in embeddings.items():
            assert error(trace[f"step_000001/gradient/embedding.{word}"], embedding.grad) < GRADIENT_TOLERANCE
