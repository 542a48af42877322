"""florence2 push: upload a checkpoint, or the newest one of a run, to the Hugging Face hub."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from florence2.labels import one_line
from florence2.sources.hub_datasets import HUB_ID

UPLOADED = ("*.json", "*.safetensors", "*.txt", "*.md", "LICENSE*", "NOTICE*")
OF_A_RUN = ("held_out.json", "best.json")


def main(argv: Sequence[str]) -> int:
    args = _parser().parse_args(argv)
    if not HUB_ID.fullmatch(args.hub_id):
        raise ValueError(f"{args.hub_id}: expected OWNER/NAME, the repository's name on the hub")
    files = uploaded(Path(args.folder))
    for file in files:
        print(f"{file.stat().st_size:>14,}  {file.name}")
    base = local_base(Path(args.folder))
    if base:
        print(
            f"the adapter's base is {base}, a folder of this machine, so whoever downloads it has to name a base; to "
            "upload the whole model: florence2 convert BASE MERGED --adapter FOLDER --to transformers, then push it",
            file=sys.stderr,
        )
    total = sum(file.stat().st_size for file in files)
    if args.dry_run:
        print(f"{len(files)} files, {total:,} bytes, would go to {args.hub_id}; nothing was sent")
        return 0
    print(f"{_upload(Path(args.folder), args.hub_id, files, args.private)}: {len(files)} files, {total:,} bytes")
    return 0


def uploaded(folder: Path) -> list[Path]:
    """The files of a checkpoint that is opened first; ValueError or OSError where it cannot be."""
    from florence2.predictor import load

    load(folder)
    files = [file for file in sorted(folder.iterdir()) if file.is_file() and file.name not in OF_A_RUN]
    return [file for file in files if any(fnmatch(file.name, pattern) for pattern in UPLOADED)]


def local_base(folder: Path) -> str:
    """The base that an adapter's folder names, where no other machine has it; "" for any other folder."""
    from florence2.model.adapter import adapter_base
    from florence2.predictor.checkpoints import SHIPPED_NAMES

    named = adapter_base(folder)
    if named is None or named[0] in SHIPPED_NAMES or not Path(named[0]).exists():
        return ""
    return named[0]


def _upload(folder: Path, hub_id: str, files: Sequence[Path], private: bool) -> str:
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(hub_id, private=private or None, exist_ok=True)
        names = [file.name for file in files]
        return str(api.upload_folder(repo_id=hub_id, folder_path=str(folder), allow_patterns=names))
    except (OSError, ValueError) as error:
        why = one_line(error, 300)
        raise OSError(f"{hub_id}: the hub does not take it ({why}); log in with `hf auth login`") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="florence2 push",
        description="Upload a checkpoint to the Hugging Face hub. It is opened first; of a run's folder the newest "
        "checkpoint goes, not its journals. For programs that read another layout convert it first.",
        allow_abbrev=False,
    )
    parser.add_argument("folder", metavar="FOLDER", help="a checkpoint, an adapter, or a run's folder")
    parser.add_argument("hub_id", metavar="HUB_ID", help="OWNER/NAME")
    parser.add_argument("--private", action="store_true", help="a new repository is seen by its owner alone")
    parser.add_argument("--dry-run", action="store_true", help="list what would be sent; needs no network")
    return parser
