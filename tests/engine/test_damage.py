"""Damage any file of a store in any way: verify names it, repair gives it back to the byte, or says that it cannot."""

import random
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import florence2
from florence2.engine.planning.repair import repair
from florence2.store import Store
from tests.engine.test_repair import WITHOUT_PARSER, full_store, own_names

PARTS = ("images", "annotations", "decisions", "failures", "snapshots", "runs", "chain", "compact")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    store = full_store(root)
    store.compact(rows=12)
    florence2.annotate(store.root, with_=own_names(root, 2), workers=0)
    return root, content(store.root)


def content(root):
    return {p: (root / p).read_bytes() for part in PARTS for p in files(root, part)}


def files(root, part):
    return sorted(path.relative_to(root).as_posix() for path in (root / part).rglob("*") if path.is_file())


def spoil(path, how, where):
    data = bytearray(path.read_bytes())
    if how == "deleted":
        path.unlink()
    elif how == "cut":
        path.write_bytes(data[: where % len(data)])
    elif how == "grown":
        path.write_bytes(data + b"x")
    else:
        data[where // 8 % len(data)] ^= 1 << where % 8
        path.write_bytes(data)


@settings(max_examples=14, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(PARTS), st.sampled_from(("flipped", "cut", "grown", "deleted")), st.integers(0, 2**20))
def test_any_damage_is_named_and_mended_to_the_byte_or_said(whole, part, how, where):
    root, before = whole
    out = root / "s"
    path = files(out, part)[where % len(files(out, part))]
    spoil(out / path, how, where)
    if how == "deleted" and path == [p for p in before if p.startswith("chain/")][-1]:
        (out / path).write_bytes(before[path])  # the last link is not missed: the next command seals again
        return
    store, said = Store(out), []
    assert path in [damage.path for damage in store.verify()]
    left = repair(store, store.verify(), workers=0, on_message=said.append)
    after = content(out)
    named = {damage.path for damage in left}
    assert {p for p in before if after.get(p) != before[p]} <= named and after.keys() <= before.keys()
    if left:
        assert said
    again = store.verify()
    assert {damage.path for damage in again} == named
    shutil.rmtree(out)
    for name, data in before.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(data)


def test_no_flipped_bit_of_a_snapshot_or_record_is_accepted(tmp_path):
    from tests.engine.doubles import folder_of

    store = florence2.annotate(folder_of(tmp_path, 3), tmp_path / "s", own_names(tmp_path), workers=0)
    florence2.filter(store, WITHOUT_PARSER)
    draw = random.Random(0)
    run = store.snapshot().operators[0].run_id
    for path, read in (
        ("snapshots/000002.json", store.snapshot),
        ("snapshots/000001.json", lambda: store.snapshot(1)),
        (f"runs/{run}.json", lambda: store.run(run)),
        (f"runs/{run}/000001.json", lambda: store.run(run)),
    ):
        good = (store.root / path).read_bytes()
        for _ in range(120):
            spoil(store.root / path, "flipped", draw.randrange(8 * len(good)))
            with pytest.raises(ValueError, match="damaged"):
                read()
            (store.root / path).write_bytes(good)
        assert read()
