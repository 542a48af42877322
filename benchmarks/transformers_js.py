"""An exported folder in transformers.js beside the torch model: prompts' ids, greedy ids, answers. One JSON line last.

    npm install --prefix JS --ignore-scripts @huggingface/transformers      (node 18 or later)
    florence2 export-model nano --to onnx --out nano_onnx
    python -m benchmarks.transformers_js nano_onnx --checkpoint nano --modules JS              in node
    python -m benchmarks.transformers_js nano_onnx --checkpoint nano --modules JS --browser    in Chromium, WebAssembly

Both are asked about the same pictures by the same rules (the published ones, greedy: transformers.js has no others).
Once in the model's own size, so that both see the same pixels; once in mixed sizes, where transformers.js resizes by
another library, and may answer otherwise.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import json
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any

from PIL import Image

import florence2
from florence2.predictor import images

HERE = Path(__file__)
SIZES = ((640, 480), (300, 500), (128, 128), (1024, 700))
INPUTS = {
    "<CAPTION_TO_PHRASE_GROUNDING>": "A red cat on a table.",
    "<REFERRING_EXPRESSION_SEGMENTATION>": "the largest object",
    "<OPEN_VOCABULARY_DETECTION>": "boat",
    "<REGION_TO_CATEGORY>": "<loc_100><loc_100><loc_800><loc_800>",
    "<VQA>": "How many objects are there?",
}


def main() -> None:
    """Write the pictures, ask both, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="what florence2 export-model wrote")
    parser.add_argument("--checkpoint", metavar="CKPT", help="the torch model (default: the folder in onnxruntime)")
    parser.add_argument(
        "--modules", type=Path, default=Path(), metavar="JS", help="where npm installed (default: here)"
    )
    parser.add_argument("--pictures", type=int, default=34, metavar="N", help="drawn scenes (default: 34)")
    parser.add_argument("--tokens", type=int, default=64, metavar="N", help="of an answer at most (default: 64)")
    parser.add_argument("--int8", action="store_true", help="the graphs of int8 that there are, beside onnxruntime's")
    parser.add_argument("--browser", action="store_true", help="in headless Chromium, by its own default of graphs")
    args = parser.parse_args()
    if not args.browser and shutil.which("node") is None:
        raise SystemExit("transformers_js: no node on the path; install node 18 or later")
    if not (args.modules / "node_modules" / "@huggingface" / "transformers").is_dir():
        raise SystemExit(f"transformers_js: {args.modules}/node_modules: no @huggingface/transformers; see --help")
    if args.checkpoint and not args.int8:
        model = florence2.load(args.checkpoint)
    else:
        model = florence2.onnx.load(args.folder, quantize="int8" if args.int8 else None)
    where = {"device": "wasm"} if args.browser else {} if args.int8 else {"dtype": "fp32"}
    result: dict[str, Any] = {"benchmark": "transformers_js", "folder": args.folder.name, "int8": args.int8}
    result["runtime"] = "browser" if args.browser else "node"
    for form in ("same pixels", "own resizing"):
        with tempfile.TemporaryDirectory() as room:
            rows = _asks(model, form, Path(room), args.pictures)
            asks = Path(room) / "asks.json"
            asks.write_text(json.dumps({**where, "tokens": args.tokens, "rows": rows}))
            found = _in_browser(args, Path(room)) if args.browser else _in_node(args, asks)
            result["version"] = found["version"]
            result[form.replace(" ", "_")] = _compared(model, form, Path(room), rows, found["answers"], args.tokens)
    print(json.dumps(result))


def _asks(model: Any, form: str, room: Path, count: int) -> list[dict[str, str]]:
    """Pictures on disk and what is asked about them, the tasks in turn."""
    tasks = [token for token in model.tasks if not model.tasks[token].input_kind or token in INPUTS]
    rows = []
    for number, sample in enumerate(florence2.sources.open(f"scenes:{count}")):
        size = model.config.image_size_wh if form == "same pixels" else SIZES[number % len(SIZES)]
        picture = room / f"{number}.png"
        Image.fromarray(images.load(sample.image)).resize(size).save(picture)
        task = tasks[number % len(tasks)]
        rows.append({"picture": picture.name, "task": task, "text": task + INPUTS.get(task, "")})
    return rows


def _in_node(args: argparse.Namespace, asks: Path) -> dict[str, Any]:
    command = [
        "node",
        str(HERE.with_suffix(".mjs")),
        str(args.folder.resolve()),
        str(asks),
        str(args.modules.resolve()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=asks.parent)
    if done.returncode:
        raise SystemExit(f"transformers_js: node ended with {done.returncode}:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _in_browser(args: argparse.Namespace, room: Path) -> dict[str, Any]:
    from selenium import webdriver
    from selenium.webdriver.support.ui import WebDriverWait

    for name, target in (("model", args.folder), ("modules", args.modules / "node_modules")):
        (room / name).symlink_to(target.resolve())
    for suffix in (".html", ".mjs"):
        shutil.copy(HERE.with_suffix(suffix), room)
    options = webdriver.ChromeOptions()
    for option in ("--headless=new", "--no-sandbox"):
        options.add_argument(option)
    handler = functools.partial(_Files, directory=str(room))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, webdriver.Chrome(options) as browser:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser.get(f"http://127.0.0.1:{server.server_port}/{HERE.stem}.html")
        found = WebDriverWait(browser, 3600, 1).until(lambda page: page.execute_script("return window.found"))
        server.shutdown()
    if "error" in found:
        raise SystemExit(f"transformers_js: in the browser: {found['error']}")
    return dict(found)


class _Files(http.server.SimpleHTTPRequestHandler):
    extensions_map = {**http.server.SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript"}

    def log_message(self, *_: object) -> None:
        """Nothing: the table is printed there."""


def _compared(
    model: Any, form: str, room: Path, rows: list[dict[str, str]], answers: list[Any], tokens: int
) -> dict[str, Any]:
    """How many prompts, ids and official answers are equal; each difference is printed."""
    counts = dict.fromkeys(("prompts", "ids", "answers", "unparsed_there"), 0)
    for row, there in zip(rows, answers, strict=True):
        ask = florence2.Ask(row["task"], text=INPUTS.get(row["task"], ""))
        here = model.predict(room / row["picture"], ask, official=True, num_beams=1, max_new_tokens=tokens)
        same = {
            "prompts": model.tokenizer.prompt_ids(here.prompt) == there["prompt_ids"],
            "ids": list(here.token_ids) == there["ids"],
            "answers": _equal(here.official(), there["answer"]),
        }
        if str(there["answer"].get("error", "")).endswith("not yet implemented."):
            counts["unparsed_there"] += 1  # its processor reads no polygons
            del same["answers"]
        for name, equal in same.items():
            counts[name] += equal
        if different := [name for name, equal in same.items() if not equal]:
            print(f"{form}, {row['picture']}, {row['text']}: {', '.join(different)} differ")
            print(f"  there {json.dumps(there['answer'])[:300]}\n  here  {json.dumps(here.official())[:300]}")
    print(f"{form}: {len(rows)} asks; equal: {', '.join(f'{name} {count}' for name, count in counts.items())}")
    return {"asks": len(rows), **counts, "tokens": sum(len(there["ids"]) - 1 for there in answers)}


def _equal(one: Any, other: Any) -> bool:
    """Equal but for rounding: JavaScript's numbers have more digits than float32."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_equal(a, b) for a, b in zip(one, other))
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return abs(one - other) < 1e-3
    return bool(one == other)


if __name__ == "__main__":
    main()
