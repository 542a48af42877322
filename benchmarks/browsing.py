"""The page over a large store: how long it takes to open, to page, to filter, to show the next picture, to correct.

    python benchmarks/browsing.py [--pictures 100000] [--store DIR] [--compact] [--no-browser]

The store is made first, unless DIR holds one: pictures of two specialists (four objects, a word and a caption each) and
three rules' verdicts, in units of 512; 200 picture files, drawn, stand for all. The server is a process of its own and
is asked over HTTP; the page itself is measured in headless Chromium where there is one. Times in ms. Last line JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from florence2 import scenes
from florence2.engine.curation.correcting import AnnotationChange, Correction, correct
from florence2.engine.operator import annotation_ids, digest
from florence2.pixels import encode
from florence2.records import Decision, ImageRef, Region, Sample, Source, Text
from florence2.store import ImageRow, Operator, Store, pending, sha256_of
from florence2.store.snapshots import Snapshot

FILES, UNIT, SIDE = 200, 512, 512
LABELS = [f"label {n}" for n in range(80)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--compact", action="store_true", help="measure the store in few large files")
    parser.add_argument("--no-browser", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="browsing-") as folder:
        path = args.store or Path(folder) / "store"
        if not path.exists():
            make(path, args.pictures)
        store = Store(path)
        if args.compact:
            store.compact()
        figures: dict[str, Any] = {"pictures": store.count_images(), "fragments": len(store.snapshot().fragments)}
        figures["index"] = round(timed(lambda: store.picture_index()), 1)
        figures |= over_http(path, not args.no_browser)
        figures["correction"] = corrections(store, 30)
        print(json.dumps({"benchmark": "browsing", **figures}))


def make(path: Path, count: int) -> None:
    """A store of so many pictures, without any command."""
    begun = time.monotonic()
    folder = path.with_name(path.name + "-pictures")
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for n in range(FILES):
        file = folder / f"{n:04d}.jpg"
        if not file.exists():
            file.write_bytes(encode(scenes.draw(2**31 + n, objects=(2, 4), size=SIDE)[0], "JPEG", quality=88))
        files.append((str(file.resolve()), sha256_of(file)))
    store, rng = Store(path, create=True), np.random.default_rng(0)
    made = [
        Operator(digest([name], 8), name, "1", digest([name]), 0, kind)
        for name, kind in (("pictures", "images"), ("yolox", "specialist"), ("reader", "specialist"),
                           ("region_score", "filter"), ("nms", "filter"), ("too_long", "filter"))
    ]  # fmt: skip
    images, yolox, reader, *rules = made
    fragments = []
    for start in range(0, count, UNIT):
        refs = [
            ImageRef(
                digest(["picture", n], 12), files[n % FILES][0], width=SIDE, height=SIDE, sha256=files[n % FILES][1]
            )
            for n in range(start, min(count, start + UNIT))
        ]
        uid = digest(["unit", start])
        rows = [ImageRow(ref, uid, split=("train", "val", "test")[n % 3]) for n, ref in enumerate(refs)]
        boxes = [objects(ref, yolox, rng) for ref in refs]
        words = [texts(ref, reader, rng) for ref in refs]
        weak = [
            (sample.image.id, Decision(r.id, "rejected", "region_score", "low_score", r.score, 0.4, seq=1))
            for sample in boxes
            for r in sample.regions
            if (r.score or 0) < 0.4
        ]
        found = [pending.images_of(images, uid, rows)]
        for operator, samples in ((yolox, boxes), (reader, words)):
            found.append(pending.annotations_of(operator, digest([uid, operator.name]), uid, samples))
        for rule, verdicts in zip(rules, (weak, [], [])):
            found.append(pending.decisions_of(rule, digest([uid, rule.name]), uid, verdicts))
        fragments += store.put_all(found)
    for operator in made:
        store.record_run(operator.run_id, {"operator": operator.name, "reads": []}, {"time": "2026-11-29T00:00:00Z"})
    store.save(Snapshot(), fragments, made, {"phase": "annotate", "round": 0})
    print(f"{path}: {count:,} pictures made in {time.monotonic() - begun:.0f} s", file=sys.stderr)


def objects(ref: ImageRef, operator: Operator, rng: np.random.Generator) -> Sample:
    """Four boxes on a picture."""
    source = Source("specialist", operator.name, "1", 0, operator.run_id)
    ids = annotation_ids(ref.id, operator.fingerprint, 0, 4)
    low = rng.integers(0, SIDE // 2, (4, 2))
    high = low + rng.integers(20, SIDE // 2, (4, 2))
    labels, scores = rng.integers(0, len(LABELS), 4), rng.random(4)
    regions = tuple(
        Region(name, box=(float(x1), float(y1), float(x2), float(y2)), label=LABELS[label], label_space="things",
               score=round(float(score), 3), source=source)
        for name, (x1, y1), (x2, y2), label, score in zip(ids, low, high, labels, scores)
    )  # fmt: skip
    return Sample(ref.id, ref, regions=regions)


def texts(ref: ImageRef, operator: Operator, rng: np.random.Generator) -> Sample:
    """A word and a caption of a picture."""
    source = Source("specialist", operator.name, "1", 0, operator.run_id)
    word, caption = annotation_ids(ref.id, operator.fingerprint, 0, 2)
    quad = (10.0, 10.0, 90.0, 10.0, 90.0, 40.0, 10.0, 40.0)
    region = Region(word, kind="text", quad=quad, label=f"W{rng.integers(10**6)}", score=0.9, source=source)
    return Sample(ref.id, ref, (Text(caption, f"picture {ref.id} of things", source=source),), (region,))


def over_http(path: Path, browser: bool) -> dict[str, Any]:
    """A server's own times, and the page's."""
    begun = time.monotonic()
    command = [sys.executable, "-m", "florence2", "view", str(path), "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        url = next(line.split()[-1] for line in server.stderr if "listening on" in line)
        out: dict[str, Any] = {"listening": round(1000 * (time.monotonic() - begun))}
        first = until(lambda: ask(url, "/v1/store/pictures?order=store&limit=60"))
        out["first_page_after_start"] = round(1000 * (time.monotonic() - begun))
        until(lambda: ask(url, "/v1/store"))
        out["all_read_after_start"] = round(1000 * (time.monotonic() - begun))
        total = first["total"]
        rng = random.Random(0)
        ids = [first["pictures"][n]["id"] for n in range(60)]
        listing = first["listing"]

        def page() -> Any:
            offset = rng.randrange(max(1, total - 60))
            return ask(url, f"/v1/store/pictures?order=store&limit=60&offset={offset}&listing={listing}")

        def filtered() -> Any:
            label = rng.choice(LABELS).replace(" ", "%20")
            return ask(url, f"/v1/store/pictures?order=store&label={label}&status=kept&min_score={rng.random():.3f}")

        def picture() -> Any:
            return ask(url, f"/v1/store/pictures/{rng.choice(page()['pictures'])['id']}")

        out["page"] = spread(page, 100)
        out["filter"] = spread(filtered, 30)
        out["facets"] = spread(lambda: ask(url, "/v1/store/facets?status=kept"), 10)
        out["picture_and_a_page"] = spread(picture, 60)
        out["thumbnail"] = spread(lambda: fetch(url, f"/v1/store/pictures/{rng.choice(ids)}/thumbnail?side=320"), 60)
        out["memory_mb"] = round(memory(server.pid))
        if browser:
            out["page_in_browser"] = in_browser(url)
        return out
    finally:
        server.terminate()
        server.wait(60)


def until(work: Callable[[], Any]) -> Any:
    """What comes of asking, once the server has it."""
    while True:
        with suppress(OSError):  # 503 among them
            return work()
        time.sleep(0.01)


def in_browser(url: str) -> dict[str, Any] | str:
    """From the address to the first thumbnails; each next picture, as the page itself measures it."""
    from tests.serving import browser as chromium

    if chromium.installed() is None:
        return "no browser"
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    with chromium.opened(1400, 900) as driver:
        begun = time.monotonic()
        driver.get(f"{url}/store?order=store")
        wait(
            driver, "[...document.querySelectorAll('.thumb img')].filter(i => i.complete && i.naturalWidth).length > 5"
        )
        out: dict[str, Any] = {"first_thumbnails": round(1000 * (time.monotonic() - begun))}
        scrolled = []
        for _ in range(20):
            begun = time.monotonic()
            driver.execute_script(
                "const g = document.getElementById('grid'); g.scrollTop = Math.random() * g.scrollHeight"
            )
            wait(driver, "[...document.querySelectorAll('.cell')].every(c => !c.classList.contains('loading'))")
            scrolled.append(1000 * (time.monotonic() - begun))
        out["jump_to_anywhere"] = percentiles(scrolled)
        driver.execute_script("document.getElementById('grid').scrollTop = 0")
        driver.find_element("id", "grid").send_keys(Keys.ENTER)
        wait(driver, "document.body.dataset.took")
        took = []
        for _ in range(60):
            time.sleep(0.4)  # a quick look
            before = driver.execute_script("return document.body.dataset.picture")
            ActionChains(driver).send_keys(Keys.ARROW_RIGHT).perform()
            wait(driver, f"document.body.dataset.picture !== '{before}'")
            took.append(float(driver.execute_script("return document.body.dataset.took")))
        out["next_picture"] = percentiles(took)
        return out


def wait(driver: Any, expression: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(driver, 60, 0.01).until(lambda d: d.execute_script(f"return {expression}"))


def corrections(store: Store, count: int) -> dict[str, float]:
    """Corrections of single pictures, one after another, each in a snapshot of its own."""
    index = store.picture_index()
    rng, taken = random.Random(1), []
    for n in range(count):
        name = rng.choice(index.ids)
        change = AnnotationChange("added", label="label 1", box=(1.0, 1.0, 50.0 + n, 50.0))
        begun = time.monotonic()
        (outcome,), index = correct(store, [Correction("benchmark", name, (change,))], index)
        taken.append(1000 * (time.monotonic() - begun))
        assert not isinstance(outcome, Exception), outcome
    return percentiles(taken)


def ask(url: str, path: str) -> Any:
    return json.loads(fetch(url, path))


def fetch(url: str, path: str) -> bytes:
    with urllib.request.urlopen(url + path, timeout=60) as answer:
        data: bytes = answer.read()
        return data


def spread(work: Callable[[], Any], times: int) -> dict[str, float]:
    return percentiles([timed(work) for _ in range(times)])


def percentiles(values: list[float]) -> dict[str, float]:
    return {f"p{p}": round(float(np.percentile(values, p)), 1) for p in (50, 95)} | {"max": round(max(values), 1)}


def timed(work: Callable[[], Any]) -> float:
    begun = time.monotonic()
    work()
    return 1000 * (time.monotonic() - begun)


def memory(pid: int) -> float:
    """Resident MB of a process; 0 where the system does not say."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
    return 0


if __name__ == "__main__":
    main()
