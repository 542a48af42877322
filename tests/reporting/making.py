"""A small store of drawn scenes with two sources, verdicts, a failure, and texts that would break a careless page."""

import random

from florence2.records import Decision, Failure, Grounding, Region, Sample, Source, Text
from florence2.scenes import draw, write
from florence2.store import ImageRow, Store, schema
from florence2.store.image_rows import columns_of
from florence2.store.snapshots import Operator

EVIL = '<script>alert("x")</script> & <img src=//evil.example/x> \x07\ud800'


def region(sample, rng, i, r, round_):
    source = Source("model" if round_ else "specialist", "student" if round_ else "simulated", "1.0", round_, "run")
    box = tuple(v + rng.uniform(-3, 3) for v in r.box)
    label = r.label if rng.random() > 0.1 else "goat"
    score = min(1.0, max(0.02, rng.gauss(0.7, 0.25)))
    return Region(f"{sample.id}:{round_}:{i}", r.kind, box, label, r.label_space, r.description, r.polygons, r.quad,
                  score=score, source=source)  # fmt: skip


def judged(sample, items):
    out = []
    for seq, item in enumerate(items):
        if item.score is not None and item.score < 0.45:
            out.append(Decision(item.id, "rejected", "confidence", "low_score", item.score, 0.45, seq=seq))
        elif item.source.round == 0 and seq % 5 == 4:
            out.append(Decision(item.id, "superseded", "merge", "outranked", 0.9, 0.5, by_id="x", round=1, seq=seq))
    return out


def make_store(folder, count=12, evil=True):
    """The store; its pictures are PNGs in folder/set/images."""
    rng = random.Random(0)
    drawn = [draw(seed, objects=(2, 5), signs=0.6) for seed in range(count)]
    write(folder / "set", drawn)
    store = Store(folder / "store", create=True)
    images, annotations, decisions = [], [], []
    for n, (_, truth) in enumerate(drawn):
        ref = truth.image.__class__(
            truth.id, str(folder / "set" / "images" / f"{truth.id}.png"), width=128, height=128, sha256="0"
        )
        regions = [region(truth, rng, i, r, k) for k in (0, 1) for i, r in enumerate(truth.regions)]
        source = Source("specialist", "composer", "1", 0, "run")
        texts = [Text(f"{t.id}c", t.text, t.detail, score=0.9, source=source) for t in truth.texts]
        if evil and n == 0:
            texts.append(Text("evil", EVIL, "ocr", source=source))
            regions.append(Region("evil-r", "text", (5, 5, 40, 20), EVIL, score=0.99, source=source))
        phrases = [
            Grounding(f"{g.id}c", f"{g.text_id}c", g.phrase, g.spans,
                      tuple(f"{truth.id}:0:{i.rsplit('.r', 1)[1]}" for i in g.region_ids), source=source)
            for g in truth.groundings if g.text_id
        ]  # fmt: skip
        sample = Sample(truth.id, ref, tuple(texts), tuple(regions), tuple(phrases))
        images.append(columns_of(ImageRow.of(sample, unit="u")))
        annotations += schema.annotation_rows(sample)
        decisions += [schema.decision_row(d, truth.id, "1", "judge") for d in judged(sample, regions)]
    gone = ImageRow(ref.__class__("gone", "gone.png"), unit="u", status="failed", reason="truncated")
    images.append(columns_of(gone))
    failure = schema.failure_row(
        Failure(0, "gone", "gone.png", "truncated", "gone.png: ends too early"), "x", "1", "r", 0
    )
    base = store.snapshot()
    made = [
        store.put("images/unit-u.parquet", images, ["u"], "in", {}),
        store.put("annotations/round-0/simulated@1/unit-u.parquet", clean(annotations), ["u"], "run", {}),
        store.put("decisions/round-0/confidence@1/unit-u.parquet", decisions, ["u"], "judge", {}),
        store.put("failures/round-0/x@1/unit-u.parquet", [failure], ["u"], "r", {}),
    ]
    store.save(base, made, [Operator("run", "simulated", "1.0", "f", 0)])
    return store


def clean(rows):
    """Arrow refuses lone surrogates, as the engine does before it stores a text."""
    return [{k: v.replace("\ud800", "") if isinstance(v, str) else v for k, v in row.items()} for row in rows]
