"""Bad input to prepare: exit 2, a message that names the option or file, and nothing written."""

import os
import shutil

import pytest
import support
from support import BASE, run, small_image_folder


@pytest.fixture(autouse=True)
def ended_at_once(monkeypatch):
    """mpirun waits this long, twice, after any exit code but 0; nothing here writes checkpoints meanwhile."""
    settings = dict(support.environment(), OMPI_MCA_odls_base_sigkill_timeout="1")
    monkeypatch.setattr(support, "environment", lambda: settings)


@pytest.fixture()
def images(tmp_path):
    return small_image_folder(tmp_path / "images", 3)


def refused(tmp_path, images, *more, ranks=1, base=BASE):
    """Output of a prepare that must fail and leave the folder as it was."""
    before = sorted(tmp_path.rglob("*"))
    output = run(["prepare", "--base", base, "--images", images, "--output", tmp_path / "deep" / "set", *more], ranks, code=2)
    assert sorted(tmp_path.rglob("*")) == before
    return output


@pytest.mark.parametrize("more, expected", [
    (["--resolution", "62"], ["resolution", "multiple of 4", "62"]),
    (["--resolution", "-8"], ["resolution"]),
    (["--batch_size", "0"], ["batch_size"]),
    (["--images_per_part", "0"], ["images_per_part"]),
    (["--validation_images", "2", "--test_images", "1"], ["validation_images", "test_images"]),
    (["--train_batch_size", "2"], ["train_batch_size"]),
    (["--resolutoin", "64"], ["resolutoin", "resolution"]),
    (["--resolution", "big"], ["resolution", "big"]),
    (["stray"], ["stray"]),
])
def test_options(tmp_path, images, more, expected):
    output = refused(tmp_path, images, *more)
    for text in expected:
        assert text in output, output


@pytest.mark.parametrize("option", ["--base", "--images", "--output"])
def test_a_missing_option_is_named(tmp_path, images, option):
    words = ["--base", BASE, "--images", images, "--output", tmp_path / "set"]
    at = words.index(option)
    assert option in run(["prepare", *words[:at], *words[at + 2:]], code=2)
    assert not (tmp_path / "set").exists()


def test_missing_or_wrong_folders(tmp_path, images):
    assert "/no/such/base" in refused(tmp_path, images, base="/no/such/base")
    assert "/no/such/images" in refused(tmp_path, "/no/such/images")
    assert str(images) in refused(tmp_path, images, base=images)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "found none" in refused(tmp_path, empty)


@pytest.mark.parametrize("ranks", [1, 2])
def test_unreadable_images_are_all_listed(tmp_path, images, ranks):
    (images / "metadata.jsonl").unlink()
    names = sorted(path.name for path in images.iterdir())
    for name in names:
        (images / name).with_suffix(".txt").write_text("a drawing")
    cut = images / names[1]
    cut.write_bytes(cut.read_bytes()[:200])
    (images / "zz text.png").write_text("no picture")
    (images / "zz empty.jpg").write_bytes(b"")
    output = refused(tmp_path, images, ranks=ranks)
    assert "3 of 5 images" in output and "--skip_bad" in output
    for name in (names[1], "zz text.png", "zz empty.jpg"):
        assert name in output
    output = run(["prepare", "--base", BASE, "--images", images, "--output", tmp_path / "set", "--skip_bad"], ranks)
    assert "2 images, 2 samples, 3 skipped" in output


def test_odd_files_do_not_hang(tmp_path, images):
    (images / "metadata.jsonl").unlink()
    for path in list(images.iterdir()):
        path.with_suffix(".txt").write_text("a drawing")
    os.mkfifo(images / "pipe.png")
    (images / "pipe.txt").write_text("a pipe")
    (images / "loop.png").symlink_to(images / "loop.png")
    output = run(["prepare", "--base", BASE, "--images", images, "--output", tmp_path / "set"], code=2)
    assert "pipe.png" in output or "loop.png" in output
    assert not (tmp_path / "set").exists() and not (tmp_path / "set.partial").exists()


@pytest.mark.parametrize("line, expected", [
    ('{"file_name": "none.png", "text": "x"}', "none.png"),
    ('{"file_name": "NAME"}', "text"),
    ('{"file_name": "NAME", "text": "  "}', "caption"),
    ('{"file_name": "NAME", "text": "x", "split": "valid"}', "split"),
    ('{"file_name": "NAME", "text": "x\\u0000y"}', "NUL"),
    ('{"file_name": ', "metadata.jsonl"),
])
def test_captions(tmp_path, images, line, expected):
    name = sorted(path.name for path in images.glob("*.png"))[0]
    (images / "metadata.jsonl").write_text(line.replace("NAME", name) + "\n")
    assert expected in refused(tmp_path, images)


def test_an_output_that_is_there(tmp_path, images):
    words = ["prepare", "--base", BASE, "--images", images, "--output", tmp_path / "set"]
    run(words)
    before = (tmp_path / "set" / "index.json").read_bytes()
    assert "is there already" in run(words, code=2)
    assert (tmp_path / "set" / "index.json").read_bytes() == before
    shutil.rmtree(tmp_path / "set")
    (tmp_path / "set.partial").mkdir()
    assert "another prepare" in run(words, ranks=2, code=2)
    assert (tmp_path / "set.partial").exists() and not (tmp_path / "set").exists()


def test_captions_only_of_other_images(tmp_path, images):
    run(["prepare", "--base", BASE, "--images", images, "--output", tmp_path / "set"])
    other = small_image_folder(tmp_path / "other", 2)
    before = (tmp_path / "set" / "captions.jsonl").read_bytes()
    output = run(["prepare", "--captions_only", "--images", other, "--output", tmp_path / "set"], code=2)
    assert "not found" in output
    assert (tmp_path / "set" / "captions.jsonl").read_bytes() == before
    assert "index.json" in run(["prepare", "--captions_only", "--images", images, "--output", tmp_path / "none"], code=2)
