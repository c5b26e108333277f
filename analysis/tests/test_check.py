import numpy as np
import pytest
from ldmtune_analysis import load_sweep
from ldmtune_analysis.__main__ import main
from ldmtune_analysis.check import run_checks
from ldmtune_analysis.pictures import column_saturation, data_uri, saturation
from PIL import Image
from synthetic import write_hypernetwork, write_pictures, write_sweep


def passed(folder) -> list:
    return [check.passed for check in run_checks(load_sweep(folder))]


def test_a_good_sweep_passes(tmp_path, capsys):
    folder = write_sweep(tmp_path / "demo", [0.066, 0.08])
    assert main(["check", str(folder)]) == 0
    assert capsys.readouterr().out.count("PASS") == 3


def test_no_gain_fails(tmp_path):
    assert passed(write_sweep(tmp_path / "same", [0.22], image_noise=0.02)) == [False, True, True]
    assert passed(write_sweep(tmp_path / "worse", [0.3])) == [False, True, True]


def test_colourful_pictures_fail(tmp_path, capsys):
    folder = write_sweep(tmp_path / "demo", [0.066], pictures=False)
    write_pictures(folder, [path.name for path in (folder / "trials").iterdir()], grey=False)
    assert main(["check", str(folder)]) == 1
    assert "FAIL  pictures" in capsys.readouterr().out


def test_missing_pictures_fail(tmp_path):
    folder = write_sweep(tmp_path / "demo", [0.066])
    next((folder / "pictures" / "base").iterdir()).unlink()
    assert passed(folder) == [True, False, True]
    assert passed(write_sweep(tmp_path / "none", [0.066], pictures=False)) == [True, False, True]


@pytest.mark.parametrize("spoil", ["truncate", "nan", "remove", "no card"])
def test_a_bad_export_fails(tmp_path, spoil):
    folder = write_sweep(tmp_path / "demo", [0.066])
    file = folder / "best.pt"
    if spoil == "truncate":
        file.write_bytes(file.read_bytes()[:500])
    elif spoil == "nan":
        write_hypernetwork(file, bad=float("inf"))
    elif spoil == "remove":
        file.unlink()
    else:
        (folder / "best.json").unlink()
    assert passed(folder) == [True, True, False]


def test_nothing_done_fails(tmp_path):
    assert passed(write_sweep(tmp_path / "demo", [0.1], fail=(0,), pictures=False)) == [False, False, False]


def test_saturation_of_known_colours():
    red, grey, black = [255, 0, 0], [90, 90, 90], [0, 0, 0]
    assert saturation(np.array([[red, red]], dtype=np.uint8)) == 1.0
    assert saturation(np.array([[grey, black]], dtype=np.uint8)) == 0.0
    assert saturation(np.array([[red, grey, [200, 100, 150], black]], dtype=np.uint8)) == pytest.approx((1 + 0.5) / 4)


def test_column_saturation_needs_every_picture(tmp_path):
    folder = tmp_path / "pictures" / "base"
    folder.mkdir(parents=True)
    Image.new("RGB", (4, 4), (255, 0, 0)).save(folder / "0.png")
    assert column_saturation(tmp_path, "base", [{"sample_id": 0}]) == 1.0
    assert np.isnan(column_saturation(tmp_path, "base", [{"sample_id": 0}, {"sample_id": 1}]))
    assert np.isnan(column_saturation(tmp_path, "base", []))


def test_large_pictures_are_shrunk(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, size=(512, 512, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.png")
    uri = data_uri(tmp_path / "large.png")
    assert uri.startswith("data:image/jpeg") and len(uri) < 60_000
    assert data_uri(tmp_path / "absent.png") is None
