"""florence2 predict IMAGE... --task OD: answers on the terminal, as JSON lines, or drawn on the pictures."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from florence2.records import Ask, Failure, to_json

EXAMPLES = """examples:
  florence2 predict photo.jpg --task OD --draw out.png
  florence2 predict *.jpg --task CAPTION --task OCR --json > answers.jsonl
  florence2 predict photo.jpg --task CAPTION_TO_PHRASE_GROUNDING --text "a green car beside a wall"
  florence2 predict photo.jpg --task REGION_TO_DESCRIPTION --region 10 20 300 400
  florence2 predict my_photos --task MORE_DETAILED_CAPTION --to txt --prefix "a photo of sks, "
"""
OPTIONS = (
    "num_beams",
    "max_new_tokens",
    "official",
    "grammar",
    "min_score",
    "margin",
    "each_class",
    "tiles",
    "filters",
    "batch_size",
)


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    out = argparse.ArgumentParser(
        prog="florence2 predict",
        description="Answer a task about images. A picture that cannot be read is reported, the others go on.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument("images", nargs="+", metavar="IMAGE", help="pictures, in any format Pillow reads, or a folder")
    out.add_argument("--task", action="append", default=[], help="a task's name, as OD or <OD>; may be given again")
    out.add_argument("--prompt", help="a prompt sent as written, in place of a task")
    out.add_argument("--text", default="", help="what a task takes: a caption, an expression, a question")
    out.add_argument("--labels", metavar="A,B|FILE", help="names, or a file of them, that may be answered")
    out.add_argument("--region", nargs=4, type=float, default=(), metavar=("X1", "Y1", "X2", "Y2"), help="in pixels")
    out.add_argument("--model", default="nano", help="nano (shipped), a folder, or a hub id (default: nano)")
    out.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 (default: auto, a GPU if there is one)")
    out.add_argument("--num-beams", type=int, metavar="N", help="beams of the search (default: the checkpoint's)")
    out.add_argument("--max-new-tokens", type=int, metavar="N", help="most tokens of an answer (default: up to 1024)")
    out.add_argument("--min-score", type=float, default=0.0, metavar="X", help="leave out what is scored below, 0 to 1")
    out.add_argument("--margin", type=float, default=0.0, metavar="NATS",
                     help="go on past the answer's end unless it is so much likelier (default: 0)")  # fmt: skip
    out.add_argument("--each-class", action=argparse.BooleanOptionalAction, default=True,
                     help="of several labels asked for at once, ask alone about those left open")  # fmt: skip
    rules = out.add_mutually_exclusive_group()
    rules.add_argument("--official", action="store_true", default=None, help="decode by the official rules")
    rules.add_argument("--grammar", action="store_true", default=None, help="decode by the task's grammar")
    out.add_argument("--tiles", type=_tiles, metavar="auto|CxR", help="ask overlapping tiles too: 3x2, or auto")
    out.add_argument("--filters", type=_names, default=(), metavar="A,B", help="of invalid, whole_image, nms, ...")
    out.add_argument("--batch-size", type=int, default=8, metavar="N", help="pictures at a time (default: 8)")
    out.add_argument("--json", action="store_true", help="one JSON object a line for each answer")
    out.add_argument("--draw", type=Path, metavar="OUT", help="write the picture with the answer; a folder for several")
    captions = out.add_argument_group("captions of a folder's pictures, for training others")
    captions.add_argument("--to", choices=("txt", "jsonl"), help="NAME.txt beside each picture, or metadata.jsonl")
    captions.add_argument("--prefix", default="", metavar="P", help="what every caption begins with")
    captions.add_argument("--skip-existing", action="store_true", help="leave pictures that have a caption")
    captions.add_argument("--tasks", type=Path, metavar="FILE", help="a tasks.json with further tasks of the model")
    return out


def main(argv: Sequence[str]) -> int:
    """Run the command; 1 where a picture failed."""
    args = parser().parse_args(argv)
    if bool(args.task) == (args.prompt is not None):
        parser().error("give --task (OD, CAPTION, ...) or --prompt, one of the two")
    if args.prompt is not None and (args.text or args.labels is not None or args.region):
        parser().error("--prompt is sent as written: --text, --labels and --region go with --task")
    if args.draw and args.draw.suffix and len(args.images) * len(args.task) > 1:
        parser().error(f"--draw: expected a folder for {len(args.images) * len(args.task)} drawings, got {args.draw}")
    if args.to:
        _check_captions(args)
    from florence2.formats import label_names

    labels = () if args.labels is None else label_names.of_option(args.labels)
    asks = [Ask(task, text=args.text, labels=labels, region=tuple(args.region)) for task in args.task]
    from florence2.codec.tasks import load_tasks
    from florence2.predictor import load
    from florence2.predictor.images import pictures_in

    model = load(args.model, device=args.device)
    if args.tasks:
        model.tasks.update(load_tasks(_table(args.tasks)))
    options = {name: getattr(args, name) for name in OPTIONS}
    if args.to:
        return _write_captions(args, model, (asks or [Ask(prompt=args.prompt)])[0], options)
    args.images = [path for image in args.images for path in (pictures_in(image) if Path(image).is_dir() else [image])]
    if args.draw and args.draw.exists() and any(Path(i).exists() and args.draw.samefile(i) for i in args.images):
        raise FileExistsError(f"--draw: {args.draw} is the picture itself; name another file")
    failed = False
    for image, answers in zip(
        args.images, model.predict_many(args.images, asks or [Ask(prompt=args.prompt)], **options)
    ):
        for answer in [answers] if isinstance(answers, Failure) else answers:
            if isinstance(answer, Failure):
                failed = True
                print(f"florence2 predict: {answer.detail}", file=sys.stderr)
                if args.json:
                    print(json.dumps({"image": image, "failure": {"reason": answer.reason, "detail": answer.detail}}))
                continue
            if args.json:
                print(json.dumps({"image": image, **answer.to_json()}, ensure_ascii=False), flush=True)
            else:
                print(f"{image}  {answer.task or answer.prompt}")
                print(*(f"  {line}" for line in str(answer).splitlines()), sep="\n", flush=True)
            if args.draw:
                answer.draw().save(_target(args.draw, args.images, image, answer.task or "prompt"))
    return 1 if failed else 0


def _tiles(given: str) -> str | tuple[int, int]:
    """What --tiles names; a wrong one is refused by the model, with its own words."""
    columns, x, rows = given.partition("x")
    return (int(columns), int(rows)) if x and columns.isdigit() and rows.isdigit() else given


def _names(given: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in given.split(","))


def _check_captions(args: argparse.Namespace) -> None:
    if len(args.images) != 1 or not Path(args.images[0]).is_dir():
        parser().error(f"--to {args.to}: expected one folder of pictures, got {' '.join(args.images)[:200]}")
    if len(args.task) > 1 or args.json or args.draw:
        parser().error(f"--to {args.to}: goes with one --task or --prompt, without --json and --draw")


def _write_captions(args: argparse.Namespace, model: Any, ask: Ask, options: dict[str, Any]) -> int:
    from florence2.cli.captions import CaptionFolder, write_captions
    from florence2.predictor.images import pictures_in

    refused: list[str] = []

    def refuse(line: str) -> None:
        refused.append(line)
        print(f"florence2 predict: {line}", file=sys.stderr)

    about = {**options, "model": args.model, "ask": to_json(ask), "prefix": args.prefix}
    folder = CaptionFolder(Path(args.images[0]), args.to, about, args.skip_existing)
    todo = list(folder.todo(pictures_in(args.images[0]), refuse))
    count = write_captions(zip(todo, model.predict_many(todo, ask, **options)), folder, args.prefix, refuse)
    skipped = f", {folder.skipped} were there" if folder.skipped else ""
    print(f"{folder.finish()}: {count} captions written{skipped}, {len(refused)} refused")
    return 1 if refused else 0


def _table(path: Path) -> Path:
    """The folder of a task table."""
    table = path / "tasks.json" if path.is_dir() else path
    if table.name != "tasks.json" or not table.is_file():
        raise ValueError(f"--tasks {path}: expected a tasks.json: a list of rows token, prompt, gives, keeps")
    return table.parent


def _target(out: Path, images: Sequence[str], image: str, task: str) -> Path:
    """OUT itself where it names a file, else OUT/<picture>-<task>.png, with a number where pictures share a name."""
    if out.suffix:
        out.parent.mkdir(parents=True, exist_ok=True)
        return out
    from florence2.formats.export_files import safe_name

    out.mkdir(parents=True, exist_ok=True)
    stem = Path(image).stem
    shared = [other for other in images if Path(other).stem == stem]
    number = f"-{shared.index(image) + 1}" if len(shared) > 1 else ""
    return out / safe_name(f"{stem}{number}-{task.strip('<>')}.png")
