"""Features of a frozen tower, computed once a picture and kept for all its asks: in memory, on disk where asked.

On disk a file is named by the picture's bytes, in a folder named by the frozen weights, the picture size and the
precision: another tower finds nothing, another run of the same one everything. A file that is torn or damaged counts
as absent and is written anew. Knows no loss and no batch.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from florence2.atomic_files import write_atomic
from florence2.model.florence import Florence
from florence2.model.tower_input import normalise
from florence2.records import ImageRef
from florence2.sources import files

VERSION = "1"  # of what a file holds
DIGEST = 32  # bytes of the checksum before the numbers
GB = 1e9
FULL = (errno.ENOSPC, errno.EDQUOT)  # of a disk


class FrozenVision:
    """What of the seeing part is trained by nobody: nothing, the tower, or the tower and the projector."""

    def __init__(self, model: Florence, needs_map: bool = False) -> None:
        self.model = model
        self.tower = not _trained(model.vision_tower)
        self.projector = self.tower and not needs_map and not _trained(model.projector)

    def encode(self, pictures: Tensor) -> Tensor:
        """Of (B, H, W, 3) uint8 pictures what is frozen: the map (B, h, w, c), or with the projector (B, N, C).

        On a CPU one after the other, so that a picture's numbers do not depend on its batch. At base that costs
        nothing; the tower of nano takes 1.4 times as long.
        """
        with torch.no_grad():
            alone = self.model.device.type == "cpu"
            return torch.cat([self._encode(some) for some in (pictures.split(1) if alone else [pictures])])

    def _encode(self, pictures: Tensor) -> Tensor:
        pixels = normalise(pictures.to(self.model.device), self.model.config).to(self.model.dtype)
        found: Tensor = self.model.encode_image(pixels) if self.projector else self.model.vision_tower(pixels)
        return found

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one picture's features."""
        width, height = self.model.config.map_size_wh
        if self.projector:
            return 1 + width * height, self.model.config.text.d_model
        return height, width, self.model.config.vision.dims[-1]

    def name(self, precision: str) -> str:
        """A name for what is computed from a picture: the frozen weights, the sizes, the precision."""
        digest = blake2b(f"{VERSION}|{precision}|{self.model.device.type}|{self.model.config}".encode(), digest_size=16)
        parts = [self.model.vision_tower, *([self.model.projector] if self.projector else [])]
        for part in parts:
            for key, tensor in part.state_dict().items():
                digest.update(key.encode())
                digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def _trained(module: torch.nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


@dataclass
class FeatureCache:
    """Kept features. A process that makes batches has the files alone, the process that trains the memory as well."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    limit_bytes: float
    folder: Path | None = None
    damaged: int = 0
    """Files that were found damaged and computed anew."""
    on_message: Callable[[str], None] = lambda text: None
    _memory: dict[str, Tensor] = field(default_factory=dict)
    _keys: dict[str, str] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_memory": {}, "on_message": None}

    @property
    def bytes_each(self) -> int:
        """What one picture takes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def about(self, pictures: int) -> str:
        """One line for the screen."""
        kind = "bf16" if self.dtype == torch.bfloat16 else "fp32"
        where = f"in memory{f' and in {self.folder}' if self.folder else ''}"
        total = pictures * self.bytes_each / GB
        text = f"features of the frozen tower are computed once a picture and kept {where}: "
        text += f"{self.bytes_each / 1e6:.2g} MB a picture ({kind}), {total:.2f} GB for {pictures}"
        if total * GB > self.limit_bytes:
            beyond = "read from the files" if self.folder else "computed again each epoch; cache_gb, or disk"
            text += f"; memory takes {self.limit_bytes / GB:.1f} GB (cache_gb), the rest is {beyond}"
        return text

    # in memory

    def of(self, image: ImageRef) -> str:
        """The name of a picture within a run: where it is, and the size that its record states, which was compared."""
        return "|".join(map(str, (image.uri, image.member, image.offset, image.frame, image.width, image.height)))

    def get(self, name: str) -> Tensor | None:
        """Features in memory."""
        return self._memory.get(name)

    def __contains__(self, name: str) -> bool:
        return name in self._memory

    def keep(self, name: str, features: Tensor) -> None:
        """Hold them for the rest of the run, as long as there is room."""
        if (len(self._memory) + 1) * self.bytes_each <= self.limit_bytes:
            self._memory[name] = features

    # on disk

    def make_folder(self) -> None:
        """Make the folder of the files before the run; ValueError where that cannot be, except for a full disk."""
        if self.folder is None:
            return
        try:
            (self.folder / self.name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno not in FULL:
                raise ValueError(
                    f"cache_folder: {self.folder}: cannot be made ({error.strerror}); name a folder that can be "
                    "written, or give cache_features: memory"
                ) from None
            self._give_up(self.folder, error)

    def key(self, image: ImageRef) -> str:
        """The name of a picture among all: its bytes, its frame, its stated size; "" where nothing is kept on disk."""
        if self.folder is None:
            return ""
        name = self.of(image)
        if name not in self._keys:
            digest = blake2b(files.read_bytes(image), digest_size=20)
            digest.update(f"|{image.frame}|{image.width}x{image.height}".encode())
            self._keys[name] = digest.hexdigest()
        return self._keys[name]

    def read(self, key: str) -> Tensor | None:
        """The features that a file holds, None where there is none; ValueError where it is damaged."""
        file = self._file(key)
        try:
            data = file.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ValueError(f"{file}: cannot be read ({error.strerror})") from None
        body = memoryview(data)[DIGEST:]
        if len(body) != self.bytes_each or blake2b(body, digest_size=DIGEST).digest() != data[:DIGEST]:
            raise ValueError(f"{file}: damaged: expected {self.bytes_each} bytes and their checksum")
        return torch.from_numpy(np.frombuffer(body, np.uint8).copy()).view(self.dtype).view(self.shape)

    def write(self, key: str, features: Tensor) -> None:
        """Write a picture's file; where the disk is full the run goes on without, which is stated once."""
        if self.folder is None or not key:
            return
        body = features.contiguous().view(torch.uint8).numpy().tobytes()
        file = self._file(key)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(file, blake2b(body, digest_size=DIGEST).digest() + body)
        except OSError as error:
            self._give_up(file, error)

    def _give_up(self, path: Path, error: OSError) -> None:
        self.on_message(f"{path}: cannot be written ({error.strerror}); no more features are kept on disk")
        self.folder = None

    def _file(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / self.name / key[:2] / f"{key[2:]}.features"


def rounded(features: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    """Each picture's features as they are kept: on the CPU, of the cache's type."""
    yield from features.to(dtype).cpu().unbind(0)
