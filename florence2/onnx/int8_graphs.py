"""A graph in int8, in several ways, the quickest first: which of them is good enough the gate decides.

`dynamic`: activations in int8 with one scale a product, measured as they come (transformers.js' own form, quickest for
many rows). `blocks`: weights and activations in int8 with a scale for every 32 values (nearer, as quick for few rows).
`blocks but the head`: the output matrix stays in float32. A table has a scale a row.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from florence2.onnx.onnx_folder import QUANTIZED

BLOCK = 32
ACCURACY = 4  # onnxruntime's word for activations in int8
FORMS = {
    "vision_encoder": ("dynamic", "blocks"),
    "embed_tokens": ("rows",),
    "encoder_model": ("dynamic", "blocks"),
    "decoder_model_merged": ("blocks", "blocks but the head"),
}


def write_int8(folder: Path, name: str, form: str) -> None:
    """FOLDER/NAME_quantized.onnx of FOLDER/NAME.onnx."""
    source, target = folder / f"{name}.onnx", folder / f"{name}{QUANTIZED}.onnx"
    with _silent():
        if form == "rows":
            onnx.save(_table(onnx.load(str(source))), str(target))
        elif form == "dynamic":
            from onnxruntime.quantization import QuantType, quantize_dynamic

            quantize_dynamic(source, target, per_channel=True, weight_type=QuantType.QInt8)
        else:
            from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

            model = onnx.load(str(source))
            head = [node.name for node in model.graph.node if "logits" in node.output] if "head" in form else []
            made = MatMulNBitsQuantizer(
                model, bits=8, block_size=BLOCK, is_symmetric=True, accuracy_level=ACCURACY, nodes_to_exclude=head
            )
            made.process()
            onnx.save(made.model.model, str(target))


def _table(model: onnx.ModelProto) -> onnx.ModelProto:
    """The embedding (V, C) as whole numbers and a scale a row."""
    (initializer,) = model.graph.initializer
    table = numpy_helper.to_array(initializer)
    scales = np.maximum(np.abs(table).max(1, keepdims=True), 1e-12) / 127
    weights = {"table": np.round(table / scales).astype(np.int8), "scales": scales.astype(np.float32)}
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["whole"]),
        helper.make_node("Gather", ["scales", "input_ids"], ["scale"]),
        helper.make_node("Cast", ["whole"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["cast", "scale"], ["inputs_embeds"]),
    ]
    graph = helper.make_graph(
        nodes, "embed_tokens", list(model.graph.input), list(model.graph.output),
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=model.ir_version)


@contextmanager
def _silent() -> Iterator[None]:
    """Without what the quantisers log: advice on graphs that are as they should be."""
    root = logging.getLogger()
    before, level = logging.root.manager.disable, root.level
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
        root.setLevel(level)
