"""florence2 export-model: a checkpoint as ONNX graphs, compared with it before they are kept."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

EXAMPLES = """examples:
  florence2 export-model nano --to onnx --out nano_onnx
  florence2 export-model my_run --to onnx --int8 --data my_data --split test --out my_onnx
  florence2 export-model microsoft/Florence-2-base-ft --to onnx --adapter my_lora --out mine_onnx

OUT holds what transformers.js expects: onnx/vision_encoder, embed_tokens, encoder_model and decoder_model_merged,
in int8 as *_quantized, with config and tokenizer files. florence2.onnx.load(OUT) answers from it
without torch. The graphs are compared with the model on 50 drawn pictures first: an id that differs, and nothing is
written. Int8 is judged on --data as `florence2 quantize` judges a tier; exit code 1 where it was refused (OUT then
holds float32 alone).
"""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    out = argparse.ArgumentParser(
        prog="florence2 export-model",
        description="Write a checkpoint as ONNX graphs that were compared with it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument("model", metavar="CKPT", help="what florence2.load takes: nano, a folder, an adapter, a hub id")
    out.add_argument("--to", required=True, choices=["onnx"], help="the form")
    out.add_argument("--out", required=True, type=Path, help="the new folder")
    out.add_argument("--adapter", metavar="A", help="an adapter's folder, merged into CKPT")
    out.add_argument("--int8", action="store_true", help="int8 graphs as well, if the gate passes them")
    out.add_argument("--data", metavar="D", help="what int8 is judged on (default: drawn scenes)")
    out.add_argument("--task", action="append", default=[], metavar="T", help="only by this task (may be repeated)")
    out.add_argument("--split", metavar="S", help="a part of the data: train or test")
    out.add_argument("--format", metavar="F", help="the data's format, if its files do not show it")
    out.add_argument("--limit", type=int, metavar="N", help="at most so many pictures of the data")
    out.add_argument("--json", action="store_true", help="print what was made as one JSON object")
    return out


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    args = parser().parse_args(argv)
    if not args.int8:
        given = [name for name in ("data", "task", "split", "format", "limit") if getattr(args, name)]
        if given:
            raise ValueError(f"--{given[0]}: says what int8 is judged on; add --int8, or leave it out")
    from florence2.onnx import export

    logging.basicConfig(stream=sys.stderr, level=logging.ERROR, format="%(message)s")
    made = export(
        args.model,
        args.out,
        int8=args.int8,
        data=args.data,
        tasks=args.task,
        split=args.split,
        format=args.format,
        limit=args.limit,
        adapter=args.adapter,
        report=lambda line: print(line, file=sys.stderr),
    )
    if args.json:
        facts = {"sizes": made.folder.sizes, "int8": list(made.folder.int8), "checked": made.folder.checked}
        print(json.dumps({"folder": str(args.out), **facts}, ensure_ascii=False))
    else:
        for name, size in made.folder.sizes.items():
            print(f"{size / 1e6:9.1f} MB  onnx/{name}")
        if made.int8 is not None:
            print(f"int8: {'passed' if made.int8.passed else 'refused'}: {made.int8.why}")
        print(args.out)
    return 0 if made.int8 is None or made.int8.passed else 1
