"""`florence2.onnx.load`: an exported model that is asked like any other, by numpy, tokenizers and onnxruntime."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime

from florence2 import arguments
from florence2.codec.tasks import load_tasks
from florence2.codec.tokenizer import Tokenizer
from florence2.onnx.onnx_folder import GRAPHS, OnnxFolder, open_folder
from florence2.onnx.sessions import OnnxNetwork
from florence2.predictor.calibration import FILE, check_fits, read_calibration
from florence2.predictor.prompted_model import PromptedModel


class OnnxModel(PromptedModel[OnnxNetwork]):
    """An exported Florence-2: `predict`, `predict_many` and `encode_image` as `florence2.load` has them."""

    def __init__(
        self, folder: OnnxFolder, quantize: str | None, threads: int | None, providers: Sequence[str] = ()
    ) -> None:
        network = OnnxNetwork(folder, quantize, threads, providers)
        super().__init__(network, Tokenizer.load(folder.path), load_tasks(folder.path))
        self.folder, self.quantize, self.threads, self.providers = folder, quantize, threads, tuple(providers)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as what it was opened from: another process opens the folder itself."""
        state = {"calibration": self.calibration, "tasks": self.tasks}
        return OnnxModel, (self.folder, self.quantize, self.threads, self.providers), state

    def info(self) -> dict[str, Any]:
        """How the model computes: the runtime, threads, the graphs and their sizes in bytes."""
        graphs = [self.folder.graph(name, self.quantize) for name in GRAPHS]
        return {
            "runtime": f"onnxruntime {onnxruntime.__version__}",
            "providers": self.model.sessions["vision_encoder"].get_providers(),
            "tier": "int8" if self.quantize else "float32",
            "threads": self.threads or "as onnxruntime chooses",
            "graphs": {path.name: self.folder.sizes[path.name] for path in graphs},
            "checked": self.folder.checked,
        }

    @property
    def identity(self) -> str:
        """Changes with the weights, with what int8 computes, and with the calibration of scores."""
        facts = [self.folder.weights_sha256, *(self.folder.graph(name, self.quantize).name for name in GRAPHS)]
        facts += self._calibrated()
        return hashlib.blake2b("\n".join(facts).encode(), digest_size=8).hexdigest()


def load(
    folder: str | os.PathLike[str],
    quantize: str | None = None,
    threads: int | None = None,
    calibration: bool | None = True,
    providers: Sequence[str] = (),
) -> OnnxModel:
    """The model of a folder that `florence2 export-model` wrote. No torch is imported.

    `quantize="int8"` takes the graphs that the gate passed. `threads`: how many onnxruntime uses, all without it.
    `calibration`: map scores by the calibration.json of the folder, if there is one. `providers`: onnxruntime's, its
    processor's without.
    """
    if quantize not in (None, "int8"):
        raise ValueError(f"quantize: expected None or 'int8', got {quantize!r:.40}")
    if calibration not in (True, False, None):
        raise ValueError(f"calibration: expected True or False, got {calibration!r:.40}")
    if threads is not None:
        threads = arguments.whole("threads", threads, 1, arguments.MOST_THREADS)
    chosen = arguments.items("providers", providers, "names such as 'CPUExecutionProvider'", _is_text)
    found = open_folder(Path(arguments.path("folder", folder)))
    if quantize and not found.int8:
        raise ValueError(
            f"{found.path}: holds no int8 graphs; export with --int8, whose gate decides whether they are good enough"
        )
    model = OnnxModel(found, quantize, threads, chosen)
    path = found.path / FILE
    if calibration and path.is_file():
        model.calibration = read_calibration(path)
        check_fits(model.calibration, found.weights_sha256, model.tasks, path)
    return model


def _is_text(value: object) -> bool:
    return isinstance(value, str)
