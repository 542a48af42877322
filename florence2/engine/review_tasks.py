"""Pictures for a person to go over in Label Studio, those worth most first; `import --reviewed` takes them back."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from florence2 import arguments
from florence2.atomic_files import check_replaceable
from florence2.engine.curation.review_order import ReviewPicture, objects, review_order
from florence2.engine.export import remember_export
from florence2.engine.operator import digest
from florence2.formats import documents
from florence2.formats.export_files import xml_text
from florence2.formats.labelstudio_writer import OURS, config_of, write_tasks
from florence2.object_store import is_object_url
from florence2.records import ImageRef, Sample
from florence2.sources import files
from florence2.store import Store
from florence2.structuring import parse_json

TASKS = "tasks of an earlier review"
CONFIG = b'<View>\n  <Image name="image" value="$image" />'  # how its labelling config begins
LOCAL = "/data/local-files/?d="  # how Label Studio's local storage names a file, from the root of the disk


def write_review(
    store: str | Path | Store,
    out: str | Path,
    limit: int | None = None,
    image_prefix: str = "",
    on_message: Callable[[str], None] = lambda line: None,
) -> list[ReviewPicture]:
    """Write OUT.json with the tasks of the pictures worth most, their predictions, and OUT.xml with the config.

    Pictures stay where they are: a task names the file by its path, as Label Studio's local storage does, or with
    `image_prefix` by its path under the folder that holds all pictures of the store, which a message names. A picture
    in an archive or a table is left out, with a message. Returns the pictures in the order written.
    """
    store = store if isinstance(store, Store) else Store(store)
    out = Path(arguments.path("out", out))
    if out.suffix != ".json":
        raise ValueError(f"--out {out}: expected the name of a .json file")
    _check_replaceable(out, store)
    if limit is not None and limit < 1:
        raise ValueError(f"--limit {limit}: expected at least 1")
    number = store.snapshot().number
    ranked = review_order(store)
    labels: dict[str, None] = {}
    refs: dict[str, ImageRef] = {}
    texts = False
    for group in store.groups():
        for sample in store.group_samples(group):
            labels.update(dict.fromkeys(region.label for region in objects(sample)))
            texts |= any(region.kind == "text" for region in sample.regions)
            refs[sample.image.id] = sample.image
    chosen, elsewhere = list[int](), 0
    for n, one in enumerate(ranked):
        if len(chosen) == limit:
            break
        if files.is_own_file(refs[one.image_id]):
            chosen.append(n)
        else:
            elsewhere += 1
    if elsewhere:
        on_message(
            f"left out, as they are no files of their own or are not there: {elsewhere} pictures; "
            "export --to labelstudio copies what lies in archives and tables"
        )
    if not chosen:
        gone_over = "all that are good have been gone over" if not elsewhere else "none left is a file of its own"
        raise ValueError(f"{store.root}: holds no picture to review: {gone_over}")
    served = _served(store, refs.values()) if image_prefix else ""
    samples = _chosen(store, {ranked[n].image_id: n for n in chosen})
    name = f"export-{digest(['review', number, [ranked[n].image_id for n in chosen]])}"
    out.parent.mkdir(parents=True, exist_ok=True)
    lost = write_tasks(
        (samples[n] for n in chosen), out, lambda sample: _address(sample, image_prefix, served), name, labels
    )
    if served:
        on_message(
            f"--image-prefix {image_prefix}: pictures are named by their paths under {served}; serve that folder"
        )
    if +lost:
        on_message("Label Studio cannot hold: " + ", ".join(f"{n} {what}" for what, n in sorted((+lost).items())))
    remember_export(store, name, "labelstudio", number, labels, texts, on_message)
    return [ranked[n] for n in chosen]


def _chosen(store: Store, places: Mapping[str, int]) -> dict[int, Sample]:
    """The samples of these pictures by their places."""
    every = (sample for group in store.groups() for sample in store.group_samples(group))
    return {places[sample.image.id]: sample for sample in every if sample.image.id in places}


def _check_replaceable(out: Path, store: Store) -> None:
    """Refuse to write over what is no earlier review, or holds what a person did; FileExistsError."""
    check_replaceable(out, b'[{"', TASKS)
    beside = out.with_suffix(".xml")  # an export's config has another name
    check_replaceable(beside, CONFIG, "the labelling config of an earlier review")
    content, config = (file.read_bytes() if file.exists() else b"" for file in (out, beside))
    rows: Any = []
    if content:
        try:
            rows = parse_json(content)
        except ValueError:
            rows = None
        if not beside.exists() or not isinstance(rows, list) or not all(map(_is_ours, rows)):
            raise FileExistsError(f"{out}: exists and is not {TASKS}; name another file")
        if any(row.get(key) for row in rows for key in ("annotations", "drafts")):
            raise FileExistsError(
                f"{out}: holds what people annotated; name another file "
                "(florence2 import --reviewed takes it into a store)"
            )
    if config and not _as_written(beside, config, rows, store):
        raise FileExistsError(
            f"{beside}: is not the labelling config that florence2 review wrote for {out.name} from this store, and "
            "may be a person's work; name another file"
        )


def _as_written(file: Path, config: bytes, tasks: Sequence[Mapping[str, Any]], store: Store) -> bool:
    """Whether nobody changed the labelling config of these tasks: it offers their export's labels, in our words."""
    exports = {task["data"][OURS]["export"] for task in tasks}
    known = store.run(exports.pop()) if len(exports) == 1 else None
    if known is None or "labels" not in known:
        return False
    try:
        offered = [node.get("value", "") for node in documents.read_xml(file).findall("RectangleLabels/Label")]
        written = config_of(tasks, offered)
    except (ValueError, KeyError, TypeError, AttributeError):  # no XML, or no tasks of ours any more
        return False
    return config == written.encode() and {*offered} - {""} == {*map(xml_text, known["labels"])}


def _is_ours(row: Any) -> bool:
    """Whether a task names the export that it is of."""
    data = row.get("data") if isinstance(row, Mapping) else None
    ours = data.get(OURS) if isinstance(data, Mapping) else None
    return isinstance(ours, Mapping) and isinstance(ours.get("export"), str)


def _served(store: Store, refs: Iterable[ImageRef]) -> str:
    """The folder that holds all pictures of a store that are files of their own, whichever of them are written."""
    places = {os.path.dirname(_place(ref)) for ref in refs if not ref.member and ref.offset < 0}
    roots = {"/".join(place.split("/")[:3]) if is_object_url(place) else "this machine" for place in places}
    if len(roots) > 1:
        found = " and on ".join(sorted(roots))
        raise ValueError(
            f"{store.root}: --image-prefix: expected all pictures in one folder, got some on {found}; leave it out"
        )
    served = os.path.commonpath(places)
    return served if "this machine" in roots else served.replace(":/", "://", 1)  # two slashes are one to commonpath


def _place(ref: ImageRef) -> str:
    return files.absolute_of(files.path_of(ref.uri))


def _address(sample: Sample, prefix: str, served: str) -> str:
    place = _place(sample.image)
    if prefix:
        below = os.path.relpath(place, served)
        return prefix + ("" if prefix.endswith(("/", "=")) else "/") + quote(below, errors="surrogateescape")
    return place if is_object_url(place) else LOCAL + quote(place.lstrip("/"), errors="surrogateescape")
