"""prepare: a dataset folder that h5py reads as it stands, with the same bytes for any number of ranks."""

import hashlib
import json

import h5py
import numpy as np
from support import BASE, IMAGES, run, sha256, small_image_folder


def hashes(folder):
    return {path.name: sha256(path) for path in sorted(folder.iterdir())}


def test_dataset_folder(tmp_path):
    images = small_image_folder(tmp_path / "images", 10)
    output = run(["prepare", "--base", BASE, "--images", images, "--output", tmp_path / "set", "--random_flip",
                  "--images_per_part", "6"])
    assert "10 images, 20 samples" in output and "images/s" in output
    folder = tmp_path / "set"
    index = json.loads((folder / "index.json").read_text())
    assert index["format"] == "ldmtune-latents" and index["buckets"] == ["64x64"]
    assert [part["samples"] for part in index["parts"]] == [12, 8]
    assert index["images"] == str(images) and index["random_flip"] is True and index["resolution"] == 64
    captions = [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]
    rows = [json.loads(line) for line in (images / "metadata.jsonl").read_text().splitlines()]
    assert [caption["text"] for caption in captions] == [row["text"] for row in rows for _ in range(2)]

    ids, splits = [], {}
    for part in index["parts"]:
        assert sha256(folder / part["file"]) == part["sha256"]
        with h5py.File(folder / part["file"]) as file:
            bucket = file["64x64"]
            assert bucket["latent_mean"].shape == (part["samples"], 4, 16, 16)
            assert bucket["latent_mean"].dtype == np.float16 and bucket["latent_std"].dtype == np.float16
            assert np.isfinite(bucket["latent_mean"][()]).all() and (bucket["latent_std"][()] > 0).all()
            ids += list(bucket["sample_id"][()])
            assert list(bucket["variant"][()]) == [0, 1] * (part["samples"] // 2)
            for sample, digest, split in zip(bucket["sample_id"][()], bucket["image_sha256"][()], bucket["split"][()]):
                source = images / rows[sample // 2]["file_name"]
                assert bytes(digest) == hashlib.sha256(source.read_bytes()).digest()
                splits.setdefault(sample // 2, set()).add(int(split))
    assert ids == list(range(20))
    # The lowest hashes are held out, and a mirror image goes with its original.
    order = sorted(range(10), key=lambda i: hashlib.sha256((images / rows[i]["file_name"]).read_bytes()).digest())
    assert splits == {image: {1 if image == order[0] else 2 if image == order[1] else 0} for image in range(10)}


def test_metadata_decides_splits(tmp_path):
    run(["prepare", "--base", BASE, "--images", IMAGES, "--output", tmp_path / "set", "--known_only"])
    rows = sorted((json.loads(line) for line in (IMAGES / "metadata.jsonl").read_text().splitlines()),
                  key=lambda row: row["file_name"])
    names = ["train", "validation", "test"]
    with h5py.File(tmp_path / "set" / "part-00000.h5") as file:
        found = {int(i) // 2: names[s] for i, s in zip(file["64x64/sample_id"][()], file["64x64/split"][()])}
    assert found == {i: row["split"] for i, row in enumerate(rows) if row["known"]}


def test_any_number_of_ranks(tmp_path):
    images = small_image_folder(tmp_path / "images", 13)
    for ranks in (1, 2, 3, 4):
        run(["prepare", "--base", BASE, "--images", images, "--output", tmp_path / f"set{ranks}", "--random_flip",
             "--batch_size", "2", "--images_per_part", "5"], ranks=ranks)
        assert hashes(tmp_path / f"set{ranks}") == hashes(tmp_path / "set1")


def test_captions_only(tmp_path):
    images = small_image_folder(tmp_path / "images", 3)
    run(["prepare", "--base", BASE, "--images", images, "--output", tmp_path / "set"])
    before = hashes(tmp_path / "set")
    metadata = images / "metadata.jsonl"
    metadata.write_text(metadata.read_text().replace(", pencil", ", mended"))
    run(["prepare", "--captions_only", "--images", images, "--output", tmp_path / "set"], ranks=2)
    after = hashes(tmp_path / "set")
    assert after["part-00000.h5"] == before["part-00000.h5"] and after["index.json"] != before["index.json"]
    assert (tmp_path / "set" / "captions.jsonl").read_text().count(", mended") == 3
    assert "all checksums hold" in run(["inspect", tmp_path / "set"])
