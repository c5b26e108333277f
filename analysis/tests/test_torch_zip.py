import os
import pickle
import zipfile

import numpy as np
import pytest
from ldmtune_analysis.torch_zip import hypernetwork_summary, read_torch_file
from synthetic import FloatStorage, _FakeStorage, _FakeTensor, _rebuild_tensor_v2, write_hypernetwork, write_torch_zip


def test_reads_a_hypernetwork(tmp_path):
    write_hypernetwork(tmp_path / "best.pt")
    content = read_torch_file(tmp_path / "best.pt")
    assert list(content)[:2] == [4, 8]
    assert content[4][0]["linear.0.weight"].shape == (8, 4)
    assert content["sd_checkpoint"] is None and content["layer_structure"] == [1.0, 2.0, 1.0]
    summary = hypernetwork_summary(content)
    assert summary["widths"] == [4, 8]
    assert summary["parameters"] == 2 * ((8 * 4 + 8 + 4 * 8 + 4) + (16 * 8 + 16 + 8 * 16 + 8))


def test_values_and_strides_are_right(tmp_path):
    values = np.arange(12, dtype=np.float32)

    class Transposed:
        def __reduce__(self):
            return _rebuild_tensor_v2, (_FakeStorage(values, "0"), 2, (2, 3), (1, 3), False, {})

    write_torch_zip(tmp_path / "x.pt", Transposed(), {"0": values})
    np.testing.assert_array_equal(read_torch_file(tmp_path / "x.pt"), [[2, 5, 8], [3, 6, 9]])


class Malicious:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def test_a_system_call_is_refused_and_not_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("bad.pt", "w") as archive:
        archive.writestr("bad/data.pkl", pickle.dumps(Malicious(), protocol=2))
    with pytest.raises(ValueError, match="bad.pt.*refused.*system"):
        read_torch_file("bad.pt")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "size, stride, offset", [((4, 4), (4, 1), 0), ((2,), (1,), 11), ((3,), (-1,), 5), ((10**9,), (0,), 0)]
)
def test_views_past_their_storage_are_refused(tmp_path, size, stride, offset):
    values = np.arange(12, dtype=np.float32)

    class Past:
        def __reduce__(self):
            return _rebuild_tensor_v2, (_FakeStorage(values, "0"), offset, size, stride, False, {})

    write_torch_zip(tmp_path / "x.pt", Past(), {"0": values})
    with pytest.raises(ValueError, match="x.pt"):
        read_torch_file(tmp_path / "x.pt")


def test_damage_is_reported(tmp_path):
    file = tmp_path / "best.pt"
    write_hypernetwork(file)
    whole = file.read_bytes()
    for damaged in (b"", b"not a zip", whole[: len(whole) // 2], whole.replace(b"data.pkl", b"data.xyz")):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match="best.pt"):
            read_torch_file(file)


def test_a_flipped_bit_is_reported(tmp_path):
    file = tmp_path / "best.pt"
    write_hypernetwork(file)
    raw = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        place = archive.getinfo("best/data/0").header_offset + 60
    raw[place] ^= 1
    file.write_bytes(bytes(raw))
    with pytest.raises(ValueError, match="CRC"):
        read_torch_file(file)


def test_a_short_storage_is_reported(tmp_path):
    values = np.arange(4, dtype=np.float32)
    write_torch_zip(tmp_path / "x.pt", _FakeTensor(values, "0"), {"0": values}, corrupt="0")
    with pytest.raises(ValueError, match="storage 0 holds 12 bytes"):
        read_torch_file(tmp_path / "x.pt")


def test_summary_names_what_is_wrong(tmp_path):
    write_hypernetwork(tmp_path / "nan.pt", bad=float("nan"))
    with pytest.raises(ValueError, match="NaN"):
        hypernetwork_summary(read_torch_file(tmp_path / "nan.pt"))
    for content, expected in ([], "dict"), ({"step": 1}, "integer keys"), ({4: [1]}, "pair"), ({4: ({}, {})}, "step"):
        with pytest.raises(ValueError, match=expected):
            hypernetwork_summary(content)


def test_the_fixture_is_what_torch_would_open():
    assert FloatStorage.__module__ == "torch" and _rebuild_tensor_v2.__module__ == "torch._utils"
