"""Random numbers and sample streams equal an independent Python of their documentation (philox.py)."""

import itertools
import json
import os
import pathlib
import subprocess

import numpy as np
import philox

TOOL = pathlib.Path(os.environ["LDMTUNE_BUILD"]) / "tests" / "data_stream_tool"

SEEDS = [0, 1, 0xFFFFFFFF, 0x123456789ABCDEF0, 2**64 - 1]
STREAMS = [
    philox.Stream(seed, purpose, dataset, draw)
    for seed, purpose, (dataset, draw) in itertools.product(
        SEEDS, ["noise", "sample_order", "subset"], [(0, 0), (1, 77), (2**24 - 1, 2**64 - 1), (3, 5 << 40 | 9)]
    )
]


def ask(requests):
    done = subprocess.run([TOOL], input=json.dumps(requests), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def request(kind, stream, **more):
    where = {"purpose": philox.PURPOSES[stream.purpose], "dataset": stream.dataset, "draw": stream.draw}
    return {"kind": kind, "seed": stream.seed, **where, **more}


def test_known_answers():
    """Random123's own vectors for philox4x32-10."""
    pi = [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344]
    for key, counter, expected in [
        ((0, 0), [0, 0, 0, 0], "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((2**32 - 1, 2**32 - 1), [2**32 - 1] * 4, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ((0xA4093822, 0x299F31D0), pi, "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ]:
        assert " ".join(f"{int(word):08x}" for word in philox.philox4x32(key, [counter])[0]) == expected


def test_words_and_uniforms():
    count = 13
    answers = ask([request(kind, stream, count=count) for stream in STREAMS for kind in ["words", "uniform"]])
    for stream, words, uniforms in zip(STREAMS, answers[::2], answers[1::2]):
        assert [int(word) for word in stream.words(count)] == words
        assert [int(word) for word in stream.words(5, 6)] == words[6:11]
        assert np.array_equal(stream.uniform(count), np.float32(uniforms))


def test_normals():
    shape = (4, 5, 3)
    answers = ask([request("normal", stream, count=60) for stream in STREAMS])
    for stream, found in zip(STREAMS, answers):
        # The last bit of a cosine may differ between mathematical libraries.
        np.testing.assert_allclose(np.float32(found).reshape(shape), stream.normal(shape), rtol=1e-6, atol=1e-7)


def test_integers():
    bounds = [1, 2, 3, 1000, 2**31 + 1, 2**32, 2**63 + 5]
    answers = ask([request("integers", stream, bounds=bounds) for stream in STREAMS])
    for stream, found in zip(STREAMS, answers):
        assert stream.integers(bounds) == found
        assert [stream.integer(i, bound) for i, bound in enumerate(bounds)] == found
        assert all(value < bound for value, bound in zip(found, bounds))


def test_permutations():
    for count in [1, 2, 3, 100]:
        answers = ask([request("permutation", stream, count=count) for stream in STREAMS])
        for stream, found in zip(STREAMS, answers):
            assert stream.permutation(count) == found
            assert sorted(found) == list(range(count))


def test_derived_seeds():
    cases = list(itertools.product(SEEDS, ["order", "768.k.linear.0.weight", "", "é"], [0, 7]))
    answers = ask([{"kind": "derive_seed", "seed": seed, "name": name, "index": index} for seed, name, index in cases])
    assert [philox.derive_seed(*case) for case in cases] == answers


def compare_micro_batches(cases):
    requests = [
        {
            "kind": "micro_batches",
            "sizes": sizes,
            "weights": weights,
            "data_seed": data_seed,
            "trial_seed": trial_seed,
            "dataset": dataset,
            "micro_batch_size": micro_batch_size,
            "from": start,
            "count": 30,
        }
        for (sizes, weights), micro_batch_size, start in itertools.product(cases, [1, 4, 16], [0, 45])
        for data_seed, trial_seed, dataset in [(0, 0, 0), (2**63 + 1, 12345, 1)]
    ]
    for asked, found in zip(requests, ask(requests)):
        stream = philox.SampleStream(
            asked["sizes"], asked["data_seed"], asked["trial_seed"], asked["dataset"], asked["micro_batch_size"], asked["weights"]
        )
        for m, draws in enumerate(found, asked["from"]):
            assert [[d.draw, d.bucket, d.row, d.epoch] for d in stream.micro_batch(m)] == draws


def test_micro_batches():
    compare_micro_batches([([[size] for size in sizes], [1]) for sizes in [[1], [48], [5, 0, 3], [20, 31, 2]]])


def test_micro_batches_of_several_datasets():
    compare_micro_batches(
        [
            ([[7, 4]], [1, 1]),
            ([[5, 0, 3], [2, 9, 1], [0, 0, 4]], [1, 0.5, 2.25]),
            ([[1, 1], [1, 0], [0, 1]], [0.3, 0.123456]),
            ([[6, 3]], [0, 1]),
        ]
    )
