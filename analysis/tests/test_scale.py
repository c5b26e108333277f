"""A thousand trials: the page builds within seconds and opens."""

import json
import time
from itertools import product

import numpy as np
from ldmtune_analysis.__main__ import main
from synthetic import write_pictures, write_run
from test_report import Balanced

VARIED = {
    "hypernetwork.layer_structure": ["1,2,1", "1,2,2,1", "1,2,4,2,1", "1,10,1", "1,4,1"],
    "hypernetwork.layer_norm": ["false", "true"],
    "hypernetwork.activation": ["linear", "swish"],
    "data.subset": ["32", "128"],
    "optim.learning_rate": ["1e-3", "2e-3", "4e-3", "6e-3", "8e-3"],
}


def write_thousand(folder):
    rng = np.random.default_rng(0)
    entries = []
    for values in product(*VARIED.values(), range(5)):
        *levels, seed = values
        options = dict(zip(VARIED, levels))
        name = f"{len(entries):03d}-{len(entries):08x}"
        entries.append(
            {
                "trial": len(entries),
                "id": name[4:],
                "folder": f"trials/{name}",
                "options": options,
                "seed": seed,
                "subset_seed": seed,
                "trainable_parameters": 1000,
                "tflops": 8.0,
                "length": "60",
            }
        )
        loss = 0.07 + 0.01 * (levels[3] == "32") + 0.001 * rng.normal()
        write_run(folder / "trials" / name, loss, seed, steps=60)
    plan = {"varied": list(VARIED), "conditions": {}, "base": "b", "data": "d", "trials": entries}
    (folder / "sweep.json").write_text(json.dumps(plan))
    write_pictures(folder, [entry["folder"].split("/")[1] for entry in entries[:40]])
    return entries


def test_a_thousand_trials_make_a_page_in_time_that_opens(tmp_path):
    folder = tmp_path / "thousand"
    assert len(write_thousand(folder)) == 1000
    start = time.monotonic()
    assert main(["report", str(folder)]) == 0
    seconds = time.monotonic() - start
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert seconds < 30, seconds
    assert len(text) < 10_000_000
    parser = Balanced()
    parser.feed(text)
    assert parser.open == [] and len(parser.ids) == len(set(parser.ids))
    assert "180 more configurations" in text
    assert text.count("data:image/png") <= 8 * 11, "pictures of the first configurations only"
