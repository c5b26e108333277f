"""Files of other programs are read bitwise, ours are read by them, and malicious or damaged ones are refused."""

import collections
import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from files_support import refused, succeed
from safetensors import safe_open
from safetensors.torch import load_file, save_file

FLOATS = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
DTYPES = FLOATS + [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(a.contiguous().reshape(-1).view(torch.uint8), b.contiguous().reshape(-1).view(torch.uint8))


def example_tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    tensors = {str(dtype): (torch.randn(3, 5, generator=generator) * 20).to(dtype) for dtype in DTYPES}
    tensors["nan"] = torch.tensor([float("nan"), float("inf"), -0.0])
    tensors["scalar"] = torch.tensor(2.5)
    tensors["empty"] = torch.empty(0, 3)
    return tensors


# safetensors


def test_safetensors_of_the_library_round_trip_and_ours_equal_its_bytes(tmp_path):
    tensors = example_tensors()
    save_file(tensors, tmp_path / "python.safetensors", {"format": "pt"})
    succeed("copy_safetensors", tmp_path / "python.safetensors", tmp_path / "ours.safetensors")
    read = load_file(tmp_path / "ours.safetensors")
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert same_bits(read[name], tensor), name
    with safe_open(tmp_path / "ours.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert (tmp_path / "ours.safetensors").read_bytes() == (tmp_path / "python.safetensors").read_bytes()


@pytest.mark.parametrize("header", [
    '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
    '{"a":{"dtype":"F32","shape":[4194305,4194305,211106198978564],"data_offsets":[0,16]}}',
    '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,18446744073709551616]}}',
    '{"a":' * 100_000,
])
def test_bad_safetensors_are_refused(tmp_path, header):
    (tmp_path / "bad.safetensors").write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(16))
    refused("copy_safetensors", tmp_path / "bad.safetensors", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


# torch files


def from_description(description: dict, tensors: dict) -> object:
    """What store_files_tool's describe() wrote."""
    (kind, content), = description.items()
    if kind == "none":
        return None
    if kind == "tensor":
        return tensors[content]
    if kind in ("list", "tuple"):
        return {"list": list, "tuple": tuple}[kind](from_description(item, tensors) for item in content)
    if kind in ("dict", "ordered_dict"):
        items = [(from_description(key, tensors), from_description(value, tensors)) for key, value in content]
        return collections.OrderedDict(items) if kind == "ordered_dict" else dict(items)
    return {"bool": bool, "int": int, "float": float, "str": str}[kind](content)


def read_with_ours(file: Path) -> object:
    description, tensors = file.with_suffix(".json"), file.with_suffix(".safetensors")
    succeed("read_torch", file, description, tensors)
    return from_description(json.loads(description.read_text()), load_file(tensors))


def assert_same(a: object, b: object, place: str = "value") -> None:
    if isinstance(b, torch.Tensor):
        assert isinstance(a, torch.Tensor) and same_bits(a, b.detach()), place
        return
    assert type(a) is type(b), (place, type(a), type(b))
    if isinstance(b, dict):
        assert list(a) == list(b), place
        for key in b:
            assert_same(a[key], b[key], f"{place}[{key!r}]")
    elif isinstance(b, (list, tuple)):
        assert len(a) == len(b), place
        for i, item in enumerate(b):
            assert_same(a[i], item, f"{place}[{i}]")
    else:
        assert a == b, place


def hypernetwork() -> dict:
    """A1111's layout, with everything that layout may hold."""
    torch.manual_seed(5)
    base = torch.arange(24.0).reshape(4, 6)
    network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.LayerNorm(8), torch.nn.Linear(8, 4))
    return {
        768: (network.state_dict(), network.half().state_dict()),
        320: ({"t": base.t(), "slice": base[1:3, 2:5], "p": torch.nn.Parameter(base)}, example_tensors()),
        "step": 12345,
        "huge": -(2**62),
        "name": "ünïcode 🐱",
        "layer_structure": [1.0, 2.0, 1.0],
        "activation_func": None,
        "is_layer_norm": True,
        "use_dropout": False,
        "optional_info": "",
        "nested": {"empty": {}, "list": [], "tuple": ()},
    }


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}], ids=["zip", "legacy", "protocol4"])
def test_files_of_torch_are_read(tmp_path, options):
    value = hypernetwork()
    torch.save(value, tmp_path / "a.pt", **options)
    assert_same(read_with_ours(tmp_path / "a.pt"), value)


def test_tied_tensors_share_their_storage_in_the_file(tmp_path):
    weight = torch.randn(4, 4)
    torch.save({"a": weight, "b": weight, "c": weight.view(-1)[4:]}, tmp_path / "a.pt")
    assert_same(read_with_ours(tmp_path / "a.pt"), {"a": weight, "b": weight, "c": weight.view(-1)[4:]})


def test_parameter_dicts_are_read_as_their_contents(tmp_path):
    torch.manual_seed(1)
    embedding = torch.nn.ParameterDict({"*": torch.nn.Parameter(torch.randn(2, 8))})
    torch.save({"string_to_token": {"*": 265}, "string_to_param": embedding}, tmp_path / "a.pt")
    read = read_with_ours(tmp_path / "a.pt")
    assert read["string_to_token"] == {"*": 265}
    assert same_bits(read["string_to_param"]["*"], embedding["*"].detach())


def test_our_files_open_in_torch_without_running_code(tmp_path):
    value = hypernetwork()
    torch.save(value, tmp_path / "a.pt")
    succeed("read_torch", tmp_path / "a.pt", tmp_path / "a.json", tmp_path / "a.safetensors")
    for name in ("ours.pt", "again.pt"):
        succeed("write_torch", tmp_path / "a.json", tmp_path / "a.safetensors", tmp_path / name)
    assert_same(torch.load(tmp_path / "ours.pt", weights_only=True), value)
    assert_same(torch.load(tmp_path / "ours.pt", weights_only=True, mmap=True), value)
    assert_same(read_with_ours(tmp_path / "ours.pt"), value)
    with zipfile.ZipFile(tmp_path / "ours.pt") as archive:
        assert archive.testzip() is None
        assert archive.namelist()[0] == "ours/data.pkl"


class Attack:
    def __init__(self, *call: object):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


@pytest.mark.parametrize("legacy", [False, True])
def test_malicious_pickles_are_refused_and_nothing_runs(tmp_path, legacy):
    marker = tmp_path / "ran"
    for attack in (Attack(os.system, f"touch {marker}"), Attack(exec, f"open({str(marker)!r}, 'w')"), Attack(open, str(marker), "w")):
        torch.save({"weight": torch.ones(2), "x": attack}, tmp_path / "bad.pt", _use_new_zipfile_serialization=not legacy)
        message = refused("read_torch", tmp_path / "bad.pt", tmp_path / "out.json", tmp_path / "out.safetensors")
        assert "not allowed" in message
        assert not marker.exists() and not (tmp_path / "out.json").exists()


def test_other_pickles_and_archives_are_refused(tmp_path):
    bad = tmp_path / "bad.pt"
    out = (tmp_path / "out.json", tmp_path / "out.safetensors")
    bad.write_bytes(pickle.dumps({"a": 1}))
    refused("read_torch", bad, *out)
    with zipfile.ZipFile(bad, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\0" * 10_000_000)
    assert "compressed" in refused("read_torch", bad, *out)
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(bad))
    assert "TorchScript" in refused("read_torch", bad, *out)
    torch.save({"a": torch.nn.Linear(2, 2)}, bad)
    assert "torch.nn.modules.linear.Linear" in refused("read_torch", bad, *out)
    torch.save({"a": torch.eye(3).to_sparse()}, bad)
    refused("read_torch", bad, *out)
    torch.save({"a": torch.ones(1).expand(1000)}, bad)
    assert "larger than the storage" in refused("read_torch", bad, *out)


# HDF5


@pytest.fixture()
def part(tmp_path) -> Path:
    succeed("write_part", tmp_path / "part-00000.h5")
    return tmp_path / "part-00000.h5"


def test_h5py_reads_a_part_as_it_stands(part):
    with h5py.File(part) as file:
        assert file.attrs["format"] == b"ldmtune-latents" and file.attrs["version"] == 1
        assert sorted(file) == ["64x64", "96x32"]
        for name, width, height in (("64x64", 64, 64), ("96x32", 96, 32)):
            group = file[name]
            shape = (3, 4, height // 4, width // 4)
            index = np.arange(np.prod(shape)).reshape(shape)
            for dataset, values in (("latent_mean", index / 8), ("latent_std", 1 / (1 + index))):
                assert group[dataset].dtype == np.float16 and group[dataset].shape == shape
                assert group[dataset].chunks == (1, *shape[1:]) and group[dataset].fletcher32
                assert group[dataset].compression is None
                assert np.array_equal(group[dataset][:], values.astype(np.float16))
            first = 7 if name == "64x64" else 10
            expected = {
                "sample_id": np.arange(first, first + 3, dtype=np.uint64),
                "image_sha256": np.repeat(np.arange(first, first + 3, dtype=np.uint8)[:, None], 32, 1),
                "variant": np.array([0, 1, 0], np.uint8),
                "original_size": np.array([[width + i, height] for i in range(3)], np.int32),
                "crop": np.array([[i, 0, width, height] for i in range(3)], np.int32),
                "split": np.array([0, 1, 2], np.uint8),
            }
            for dataset, values in expected.items():
                assert group[dataset].dtype == values.dtype, dataset
                assert np.array_equal(group[dataset][:], values), dataset
        assert file["96x32/mask"].shape == (3, 8, 24) and "mask" not in file["64x64"]


def test_a_part_written_by_h5py_is_read(tmp_path, part):
    copy = tmp_path / "copy.h5"
    with h5py.File(part) as source, h5py.File(copy, "w", libver=("v110", "v110")) as target:
        target.attrs["format"] = np.bytes_("ldmtune-latents")
        target.attrs["version"] = 1
        for name, group in source.items():
            for key, dataset in group.items():
                chunks = (1, *dataset.shape[1:])
                target.create_dataset(f"{name}/{key}", data=dataset[:], chunks=chunks, fletcher32=True)
    assert succeed("read_part", copy) == succeed("read_part", part)


@pytest.mark.parametrize("options", [
    {"chunks": (1, 4, 16, 16), "compression": "gzip", "fletcher32": True},
    {"chunks": (1, 4, 16, 16)},
    {"chunks": (1, 4, 16, 16), "fletcher32": True, "dtype": "f4"},
    {"chunks": (1, 4, 16, 16), "fletcher32": True, "dtype": ">f2"},
    {"chunks": (1, 4, 16, 16), "fletcher32": True, "dtype": np.dtype([("r", "<f2"), ("i", "<f2")])},
    {"chunks": (1, 4, 16, 16), "fletcher32": True, "maxshape": (None, 4, 16, 16), "shape": (2**40, 4, 16, 16)},
])
def test_foreign_storage_is_refused(part, options):
    with h5py.File(part, "r+", libver=("v110", "v110")) as file:
        del file["64x64/latent_mean"]
        options = {"dtype": "f2", "shape": (3, 4, 16, 16), **options}
        file.create_dataset("64x64/latent_mean", **options)
    assert "64x64/latent_mean" in refused("read_part", part)


def test_damaged_parts_are_refused(part):
    whole = part.read_bytes()
    for size in range(0, len(whole), 4096):
        part.write_bytes(whole[:size])
        refused("read_part", part)
    with h5py.File(io.BytesIO(whole)) as file:
        stored = file["64x64/latent_mean"][1].tobytes()
    flipped = bytearray(whole)
    flipped[whole.index(stored) + 5] ^= 4
    part.write_bytes(flipped)
    assert "checksum" in refused("read_part", part)


def test_h5py_reads_a_trace(tmp_path):
    succeed("write_trace", tmp_path / "trace.h5")
    with h5py.File(tmp_path / "trace.h5") as file:
        step = file["step_000001"]
        assert np.array_equal(step["gradient/768.k.linear.0.weight"][:], np.arange(6, dtype=np.float32).reshape(2, 3))
        assert step["micro_0000/timestep"].dtype == np.int64
        assert step["context"].dtype == np.float32 and step["context"][0] == 1.5
        assert step["half"].dtype == np.float16 and step["half"][0] == np.float16(0.1)
        assert step["scalar"].shape == () and step["scalar"][()] == 2.5
        assert step.attrs["loss"] == 0.25 and step.attrs["learning_rate"].tolist() == [1e-4, 2e-5]
        assert file.attrs["format"] == b"ldmtune-trace" and file.attrs["version"] == 1
