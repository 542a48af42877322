"""Tars of pictures damaged in every way, headers most of all: each member a row or skipped, the rest untouched."""

import io
import random
import shutil
import tarfile
import tempfile
from pathlib import Path

from tests.engine.doubles import picture
from tests.fuzz.attempts import Attempt
from tests.fuzz.containers import fault_of
from tests.fuzz.damage import damaged_binary

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
FIELDS = ((0, 100), (100, 108), (124, 136), (136, 148), (148, 156), (156, 157), (157, 257), (257, 265), (345, 500))
VALUES = (
    *(b"\xff" * 12, b"\x80" + b"\xff" * 11, b"77777777777\0", b"-0000000001\0", b"\0" * 12, b" " * 12, b"9" * 12),
    *(b"../../../etc/passwd\0", b"/etc/passwd\0", b"\xe9\xff.jpg\0", b"._a.png\0", b"a.png\0", b"", b"\n\x1b[2J\0"),
    *(b"L", b"K", b"x", b"g", b"S", b"1", b"2", b"3", b"5", b"6", b"7", b"V", b"Z"),
)
PAX = (
    *(b"size=%d" % 2**70, b"size=-1", b"size=x", b"path=../../x.png", b"path=\xff\xfe", b"GNU.sparse.major=1"),
    *(b"GNU.sparse.map=0,1,2", b"GNU.sparse.size=9999999999", b"mtime=nan", b"hdrcharset=BINARY", b"charset=x", b"="),
)


def drawn(folder, format):
    """The bytes of a tar with three pictures, two sidecars, a long name and a text."""
    data = picture(folder, "drawn.png", 1).read_bytes()
    names = {"a.png": data, "a.json": b'{"licence": "cc0"}', "b.png": data, "b.json": b"[" * 5000, "readme.txt": b"x",
             "deep/" * 25 + "c.png": data}  # fmt: skip
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=FORMATS[format]) as tar:
        for name, content in names.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if format == "pax":
                info.pax_headers = {"comment": "é" * 30}
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def attempts(seed):
    """Damaged tars of each format in turn, without end."""
    base = Path(tempfile.mkdtemp(prefix="fuzz-tars-"))
    try:
        whole = {format: drawn(base, format) for format in FORMATS}
        folder = base / "pictures"
        picture(folder, "z.png", 2)
        number = 0
        while True:
            for format, data in whole.items():
                rng = random.Random(f"{seed}-{format}-{number}")
                what, damaged = _damaged(rng, data)
                (folder / "shard.tar").write_bytes(damaged)
                fault = fault_of(folder, "shard.tar", len(damaged), None)
                yield Attempt(f"tar, {format}", f"seed {seed}, number {number}: {what}", fault)
            number += 1
    finally:
        shutil.rmtree(base, ignore_errors=True)


def _damaged(rng, whole):
    """Bytes anywhere, or fields of headers whose checksum is then right."""
    if rng.random() < 0.3:
        return damaged_binary(rng, whole)
    data, said = bytearray(whole), []
    heads = [at for at in range(0, len(data), 512) if data[at + 257 : at + 262] == b"ustar"]
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.choice(heads)
        if rng.random() < 0.3:  # what a pax header says of the member after it
            line = rng.choice(PAX)
            body = (
                b"%d %s\n" % (len(line) + 4, line) if rng.random() < 0.7 else b"%d %s\n" % (rng.choice((0, 9**9)), line)
            )
            head = tarfile.TarInfo("pax")
            head.size, head.type = len(body), tarfile.XHDTYPE
            data[at:at] = head.tobuf(tarfile.USTAR_FORMAT) + body.ljust(512, b"\0")
            said.append(f"{line!r} before {at}")
            heads = [h if h < at else h + 1024 for h in heads]
        else:
            start, end = rng.choice(FIELDS)
            value = rng.choice(VALUES)[: end - start]
            data[at + start : at + start + len(value)] = value
            _seal(data, at)
            said.append(f"{value!r} at {at} + {start}")
    return ", ".join(said), bytes(data)


def _seal(data, at):
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
