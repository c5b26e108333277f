"""Reads torch.save's zip format without torch: a restricted unpickler that builds numpy arrays and nothing else."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict

import numpy as np

_LARGEST_PICKLE = 64 << 20
_STORAGES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype("<u2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


class _StorageType:
    """Stands for torch.FloatStorage and its kind."""

    def __init__(self, name: str):
        self.name = name


class _Storage:
    def __init__(self, values: np.ndarray, type_name: str):
        self.values = values
        self.type_name = type_name


def _rebuild_tensor(storage, offset, size, stride, *_ignored) -> np.ndarray:
    """A copy of the view; its last element must lie inside the storage."""
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError("a tensor without storage")
    numbers = [offset, *size, *stride]
    if len(size) != len(stride) or any(not isinstance(n, int) or n < 0 for n in numbers):
        raise pickle.UnpicklingError(f"a tensor with impossible size {size} or stride {stride}")
    empty = any(extent == 0 for extent in size)
    last = offset + sum((extent - 1) * step for extent, step in zip(size, stride))
    if not empty and last >= len(storage.values):
        raise pickle.UnpicklingError(
            f"a tensor of size {tuple(size)} reaches past its storage of {len(storage.values)}"
        )
    if int(np.prod(size, dtype=object)) > len(storage.values):
        raise pickle.UnpicklingError(
            f"a tensor of size {tuple(size)} has more elements than its storage of {len(storage.values)}"
        )
    if empty:
        return np.zeros(size, storage.values.dtype)
    item = storage.values.itemsize
    view = np.lib.stride_tricks.as_strided(
        storage.values[offset:], size, [step * item for step in stride], writeable=False
    )
    if storage.type_name == "BFloat16Storage":
        return (view.astype(np.uint32) << 16).view(np.float32)
    return view.copy()


def _rebuild_parameter(data, *_ignored) -> np.ndarray:
    return data


class _TensorUnpickler(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, root: str):
        super().__init__(io.BytesIO(_read(archive, root + "data.pkl", _LARGEST_PICKLE)))
        self._archive = archive
        self._root = root
        self._storages: dict = {}

    def find_class(self, module: str, name: str):
        if module == "collections" and name == "OrderedDict":
            return OrderedDict
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_parameter"):
            return _rebuild_tensor if name == "_rebuild_tensor_v2" else _rebuild_parameter
        if module == "torch" and name in _STORAGES:
            return _StorageType(name)
        raise pickle.UnpicklingError(
            f"refused: the file asks for {module}.{name}; only tensors and plain containers are read"
        )

    def persistent_load(self, reference):
        if not isinstance(reference, tuple) or len(reference) != 5 or reference[0] != "storage":
            raise pickle.UnpicklingError("refused: a reference that is no storage")
        kind, key, elements = reference[1], str(reference[2]), reference[4]
        if not isinstance(kind, _StorageType) or not isinstance(elements, int) or elements < 0:
            raise pickle.UnpicklingError("refused: a damaged storage reference")
        if key not in self._storages:
            dtype = _STORAGES[kind.name]
            raw = _read(self._archive, f"{self._root}data/{key}", elements * dtype.itemsize)
            if len(raw) != elements * dtype.itemsize:
                raise pickle.UnpicklingError(
                    f"storage {key} holds {len(raw)} bytes, expected {elements * dtype.itemsize}"
                )
            self._storages[key] = _Storage(np.frombuffer(raw, dtype), kind.name)
        return self._storages[key]


def _read(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """A whole record (its CRC is checked by zipfile), refused if the archive says that it is larger than `limit`."""
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise pickle.UnpicklingError(f"record {name} is missing") from None
    if info.file_size > limit:
        raise pickle.UnpicklingError(f"record {name} holds {info.file_size} bytes, expected at most {limit}")
    return archive.read(info)


def read_torch_file(file):
    """What torch.load would give, with numpy arrays for tensors (bfloat16 as float32).

    Errors: ValueError naming the file if it is no zip, damaged, or asks for anything but tensors and plain containers.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            roots = [name[: -len("data.pkl")] for name in archive.namelist() if name.endswith("data.pkl")]
            if len(roots) != 1:
                raise pickle.UnpicklingError("expected one data.pkl inside")
            return _TensorUnpickler(archive, roots[0]).load()
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise ValueError(f"{file}: not a readable torch file: {error}") from error


def hypernetwork_summary(content) -> dict:
    """Widths, parameter count and structure of an AUTOMATIC1111 hypernetwork.

    Errors: ValueError saying what is missing or not finite.
    """
    if not isinstance(content, dict):
        raise ValueError("expected a dict")
    widths = [key for key in content if isinstance(key, int)]
    if not widths:
        raise ValueError("no networks: expected integer keys such as 320 and 768")
    parameters = 0
    for width in widths:
        pair = content[width]
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise ValueError(f"width {width}: expected a (k, v) pair of networks")
        for network in pair:
            for name, values in network.items():
                if not np.isfinite(values).all():
                    raise ValueError(f"width {width}: {name} holds NaN or infinity")
                parameters += values.size
    for key in ("step", "layer_structure", "activation_func", "activate_output"):
        if key not in content:
            raise ValueError(f"key {key} is missing")
    return {"widths": sorted(widths), "parameters": parameters, "layer_structure": content["layer_structure"]}
