"""Parquet and Arrow tables of pictures damaged in every way: cells are rows, or the table is; the rest untouched."""

import io
import random
import shutil
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from florence2.sources.child_process import TableLister
from tests.engine.doubles import picture
from tests.fuzz.attempts import Attempt
from tests.fuzz.containers import fault_of
from tests.fuzz.damage import HOSTILE, damaged_binary

HUGGING_FACE = {b"huggingface": b'{"info": {"features": {"image": {"_type": "Image"}, "label": {"names": ["a"]}}}}'}


def table(rng, cells):
    """A table of pictures, a few of its columns odd."""
    texts = [v for v in HOSTILE if isinstance(v, str) and v.isprintable() and len(v) < 10_000]
    paths = [rng.choice((f"{n}.png", None, rng.choice(texts))) for n in range(len(cells))]
    image = pa.StructArray.from_arrays(
        [
            pa.array([rng.choice((c, c, c, None, b"", c[:50])) for c in cells], pa.binary()),
            pa.array(paths, pa.string()),
        ],
        ["bytes", "path"],
    )
    more = {
        "plain": (pa.array(cells, pa.binary()), "img"), "again": (pa.array(cells, pa.binary()), "image"),
        "large": (pa.array(cells, pa.large_binary()), "photo"), "list": (pa.array([[c] for c in cells]), "images"),
        "licence": (pa.array([rng.choice(texts) for _ in cells]), "licence"),
        "number": (pa.array(range(len(cells))), "n"),
        "dictionary": (pa.array(["a"] * len(cells)).dictionary_encode(), "license"),
        "empty name": (pa.array(cells, pa.binary()), ""), "path as number": (pa.array(range(len(cells))), "path"),
    }  # fmt: skip
    columns = [(image, "image"), *rng.sample(list(more.values()), rng.choice((0, 0, 1, 3)))]
    made = pa.Table.from_arrays([c for c, _ in columns], [name for _, name in columns])
    metadata = rng.choice((None, HUGGING_FACE, {b"huggingface": rng.choice((b"{", b"[]", b"\xff", b"[" * 10_000))}))
    return made.replace_schema_metadata(metadata)


def as_bytes(rng, made, format):
    """The file's bytes, of one of several writers' ways."""
    file = io.BytesIO()
    if format == "parquet":
        compression = rng.choice(("none", "snappy", "gzip", "zstd"))
        pq.write_table(made, file, compression=compression, row_group_size=rng.choice((2, 100)))
    else:
        writer = pa.ipc.new_stream if format == "arrow stream" else pa.ipc.new_file
        with writer(file, made.schema) as sink:
            sink.write_table(made, max_chunksize=2)
    return file.getvalue()


def attempts(seed):
    """Damaged tables of each format in turn, without end."""
    base = Path(tempfile.mkdtemp(prefix="fuzz-tables-"))
    try:
        cells = [picture(base, f"{n}.png", n, (24, 18)).read_bytes() for n in range(4)]
        folder = base / "pictures"
        picture(folder, "z.png", 9)
        number = 0
        with TableLister() as lister:
            while True:
                for format in ("parquet", "arrow stream", "arrow file"):
                    rng = random.Random(f"{seed}-{format}-{number}")
                    whole = as_bytes(rng, table(rng, cells), format)
                    spans = ((0, None), (max(0, len(whole) - 900), None), (0, 900))
                    what, data = damaged_binary(rng, whole, *rng.choice(spans))
                    if rng.random() < 0.1:
                        what, data = "not damaged", whole
                    file = folder / ("train.parquet" if format == "parquet" else "train.arrow")
                    file.write_bytes(data)
                    fault = fault_of(folder, file.name, len(data), lister, apart=True)
                    file.unlink()
                    yield Attempt(format, f"seed {seed}, number {number}: {what}", fault)
                number += 1
    finally:
        shutil.rmtree(base, ignore_errors=True)
