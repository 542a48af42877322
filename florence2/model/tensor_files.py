"""Named tensors in files: safetensors or a pickle of nothing but tensors, in one file or in shards behind an index.

Opening reads headers only and checks them; values are mapped from disk when asked for. Knows no model: names, shapes,
types and bytes. Every refusal names the file, and the key as that file spells it.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from florence2.atomic_files import replacing
from florence2.structuring import brief, parse_json

SINGLE = ("model.safetensors", "pytorch_model.bin")  # the first that a folder has is read
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
ADAPTER = ("adapter_model.safetensors", "adapter_model.bin")
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}
THREADS = min(8, os.cpu_count() or 1)
LARGEST = 65504.0  # no weight in use comes near; a flipped bit in an exponent goes far beyond
LONGEST = 300  # letters of a tensor's name
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_BLOCK = 1 << 20  # values that are checked together


class TensorFile:
    """One file: `shapes` and `dtypes` by name at once, a tensor by `read`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        self.checksums: dict[str, str] = {}
        """The checksum of each tensor's bytes, where `write` noted them."""
        self._tensors: dict[str, Tensor] = {}
        self._mapped: Any = None
        if path.suffix == ".safetensors":
            self._open_safetensors()
        else:
            self._open_pickle()

    def read(self, name: str) -> Tensor:
        """The tensor, mapped from disk: it takes memory as it is touched, and a write to it does not reach the file."""
        if name in self._tensors:
            return self._tensors[name]
        try:
            if self._mapped is None:
                self._mapped = safe_open(self.path, framework="pt")
            self._tensors[name] = self._mapped.get_tensor(name)
            return self._tensors[name]
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{self.path}: {name}: cannot be read ({error}); fetch the file again") from None

    def check(self, name: str) -> None:
        """Read one tensor through and refuse it where its bytes or its values cannot be right."""
        tensor = self.read(name)
        if self.checksums and self.checksums.get(name) != checksum(tensor):
            raise ValueError(f"{self.path}: {name}: damaged: it does not match its checksum; copy the file again")
        check_finite(tensor, f"{self.path}: {name}")

    def _open_safetensors(self) -> None:
        header, start = _header(self.path)
        size = self.path.stat().st_size
        for name, row in header.items():
            if name == "__metadata__":
                self._open_metadata(row)
                continue
            _check_name(self.path, name)
            shape, dtype, end = _entry(self.path, name, row)
            if start + end > size:
                raise ValueError(
                    f"{self.path}: {name}: truncated: expected {start + end} bytes for it, the file has {size}; "
                    "fetch the file again"
                )
            self.shapes[name], self.dtypes[name] = shape, dtype

    def _open_metadata(self, row: Any) -> None:
        try:
            self.checksums = dict(parse_json(row.get("sums", "{}")))
        except (AttributeError, TypeError, ValueError):
            raise ValueError(f"{self.path}: __metadata__: sums: damaged; copy the file again") from None

    def _open_pickle(self) -> None:
        zipped = zipfile.is_zipfile(self.path)
        try:
            damaged = zipfile.ZipFile(self.path).testzip() if zipped else None
            data = torch.load(self.path, map_location="cpu", weights_only=True, mmap=zipped)
        except pickle.UnpicklingError as error:
            raise ValueError(f"{self.path}: refused: {_culprit(error)}; ask for the weights as safetensors") from None
        except (RuntimeError, EOFError, OSError, zipfile.BadZipFile, zlib.error, KeyError, TypeError) as error:
            raise ValueError(f"{self.path}: damaged or truncated ({_first_line(error)}); fetch it again") from None
        if not isinstance(data, dict):
            raise ValueError(f"{self.path}: expected tensors by name, got {type(data).__name__}")
        for name, value in data.items():
            _check_name(self.path, name)
            if not isinstance(value, Tensor):
                raise ValueError(f"{self.path}: {name}: expected a tensor, got {type(value).__name__}")
            self._tensors[name] = value.detach()
            self.shapes[name], self.dtypes[name] = tuple(value.shape), value.dtype
        if damaged is not None:
            key = _key_of(damaged, self._tensors)
            raise ValueError(f"{self.path}: {key}: damaged: its bytes do not match its checksum; fetch it again")


class TensorFolder(Mapping[str, Tensor]):
    """The tensors of a folder by name, whether in one file or in shards. Iterating reads nothing."""

    def __init__(self, folder: Path, names: tuple[str, ...] = SINGLE, indexes: tuple[str, ...] = INDEXES) -> None:
        self.folder = folder
        self.files: dict[str, TensorFile] = {}
        """Tensor name -> the file that holds it."""
        found = [name for pair in zip_longest(names, indexes) for name in pair if name and (folder / name).is_file()]
        if not found:
            graphs = ""
            if (folder / "onnx").is_dir():
                graphs = "; ONNX graphs that florence2 export-model wrote are opened by florence2.onnx.load"
            raise ValueError(f"{folder}: no weights: expected one of {', '.join((*names, *indexes))}{graphs}")
        if found[0] in indexes:
            self._open_index(folder / found[0])
        else:
            file = TensorFile(folder / found[0])
            self.files = dict.fromkeys(file.shapes, file)
        self.source = folder / found[0]

    def __getitem__(self, name: str) -> Tensor:
        return self.files[name].read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)

    def __contains__(self, name: object) -> bool:
        return name in self.files

    def shape(self, name: str) -> tuple[int, ...]:
        return self.files[name].shapes[name]

    def dtype(self, name: str) -> torch.dtype:
        return self.files[name].dtypes[name]

    def where(self, name: str) -> str:
        """The file and the key, as a refusal names them."""
        return f"{self.files[name].path}: {name}"

    def check(self) -> None:
        """Read every tensor through, in threads, and refuse the first whose bytes or values cannot be right."""
        with ThreadPoolExecutor(THREADS) as pool:
            for _ in pool.map(lambda name: self.files[name].check(name), self):
                pass

    def _open_index(self, index: Path) -> None:
        rows = read_json(index).get("weight_map")
        if not isinstance(rows, dict) or not rows:
            raise ValueError(f"{index}: weight_map: expected an object from keys to files, got {rows!r:.60}")
        shards: dict[str, TensorFile] = {}
        for key, name in rows.items():
            _check_name(index, key)
            if not isinstance(name, str) or Path(name).name != name or "\\" in name:
                raise ValueError(f"{index}: {key}: expected the name of a file beside the index, got {name!r:.80}")
            if name not in shards:
                if not (index.parent / name).is_file():
                    raise ValueError(f"{index}: {key}: its shard {name} is missing; fetch the folder again")
                shards[name] = TensorFile(index.parent / name)
            if key not in shards[name].shapes:
                raise ValueError(f"{index}: {key}: expected in {name}, which does not hold it; fetch both again")
            self.files[key] = shards[name]
        for name, shard in shards.items():
            for key in shard.shapes:
                if rows.get(key) != name:
                    raise ValueError(f"{shard.path}: {key}: unexpected: {index.name} does not name it")


def write(tensors: Mapping[str, Tensor], path: Path) -> None:
    """One safetensors file with a checksum of each tensor in its header, written beside it and moved into place."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    sums = json.dumps({name: checksum(whole[name]) for name in sorted(whole)})
    try:
        with replacing(path) as temp_path:
            save_ordered(whole, temp_path, {"format": "pt", "sums": sums})
            temp_path.chmod(0o644)
    except SafetensorError as error:
        raise OSError(f"{path}: cannot be written ({error})") from None


def save_ordered(tensors: dict[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """A safetensors file whose bytes depend on nothing but what it holds: the library writes metadata in any order."""
    save_file(tensors, path, metadata=dict(metadata))
    header, start = _header(path)
    header["__metadata__"] = dict(sorted(metadata.items()))
    data = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    if len(data) > start - 8:
        raise ValueError(f"{path}: its header takes {len(data)} bytes, expected at most {start - 8}")
    with path.open("r+b") as file:
        file.seek(8)
        file.write(data.ljust(start - 8))


def checksum(tensor: Tensor) -> str:
    """The sum of a tensor's bytes as 64-bit words, in hex: no single flipped bit escapes it; as quick as memory is."""
    data = tensor.reshape(-1).view(torch.uint8).numpy()
    whole = len(data) // 8 * 8
    words = int(data[:whole].view(np.uint64).sum(dtype=np.uint64))
    return f"{(words + int.from_bytes(data[whole:].tobytes(), 'little')) % 2**64:016x}"


def check_finite(tensor: Tensor, where: str) -> None:
    """Refuse a tensor with a value that is no number, infinite, or absurdly large."""
    if not tensor.numel() or not tensor.is_floating_point():
        return
    largest = _largest(tensor)
    if not math.isfinite(largest):
        raise ValueError(f"{where}: expected finite numbers, got {largest}; the file is damaged")
    if largest > LARGEST:
        raise ValueError(f"{where}: expected weights within {LARGEST:.0f}, got {largest:.3g}; the file is damaged")


def _largest(tensor: Tensor) -> float:
    """The largest magnitude; inf or NaN where there is one. By the bits without their sign, whose order is that of
    magnitudes in every floating type; and by numpy, which unlike torch works in any thread of a forked child."""
    bits = _BITS[tensor.element_size()]
    values = tensor.contiguous().reshape(-1).view(bits).numpy()
    rest = np.iinfo(values.dtype).max  # all bits but the sign
    most = max(int((values[start : start + _BLOCK] & rest).max()) for start in range(0, len(values), _BLOCK))
    return float(torch.tensor([most], dtype=bits).view(tensor.dtype)[0])


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; ValueError says what else was there."""
    try:
        data = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: missing; expected a JSON object") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: expected a JSON object ({_first_line(error)})") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(data).__name__}")
    return data


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """A safetensors file's header, and where its data starts."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or 8 + length > size:
            raise ValueError(
                f"{path}: truncated: its header claims {length} bytes, the file has {size}; fetch it again"
            )
        text = file.read(length)
    try:
        header = parse_json(text)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: its header is no JSON ({_first_line(error)}); fetch it again") from None
    if not isinstance(header, dict):
        raise ValueError(f"{path}: its header is no JSON object; fetch it again")
    return header, 8 + length


def _check_name(path: Path, name: Any) -> None:
    if not isinstance(name, str) or len(name) > LONGEST or not name.isprintable():
        raise ValueError(f"{path}: expected tensors named on one line of at most {LONGEST} letters, got {brief(name)}")


def _entry(path: Path, name: str, row: Any) -> tuple[tuple[int, ...], torch.dtype, int]:
    """One line of the header: shape, type and where its bytes end."""
    try:
        shape, kind, (start, end) = tuple(row["shape"]), row["dtype"], row["data_offsets"]
        whole = isinstance(kind, str) and all(isinstance(n, int) and n >= 0 for n in (*shape, start, end))
    except (TypeError, KeyError, ValueError):
        whole = False
    if not whole:
        raise ValueError(f"{path}: {name}: expected dtype, shape and data_offsets in the header, got {row!r:.80}")
    if kind not in DTYPES:
        raise ValueError(f"{path}: {name}: expected one of {', '.join(DTYPES)}, got {kind!r:.20}; save it unquantised")
    size = math.prod(shape) * DTYPES[kind].itemsize
    if end - start != size:
        raise ValueError(f"{path}: {name}: shape {shape} of {kind} takes {size} bytes, its offsets hold {end - start}")
    return shape, DTYPES[kind], end


def _key_of(member: str, tensors: Mapping[str, Tensor]) -> str:
    """The tensor whose bytes are this member of torch's archive, which numbers storages as they come; or the member."""
    keys: dict[int, str] = {}
    for name, tensor in tensors.items():
        keys.setdefault(tensor.untyped_storage().data_ptr(), name)
    number = member.rpartition("/data/")[2]
    return list(keys.values())[int(number)] if number.isdigit() and int(number) < len(keys) else member


def _culprit(error: Exception) -> str:
    """What a pickle held beside tensors, out of torch's long advice."""
    found = re.search(r"GLOBAL (\S+)|(Unsupported \w+ \d+)", str(error))
    return f"it holds code or objects beside tensors ({(found[1] or found[2]) if found else 'which is not known'})"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
