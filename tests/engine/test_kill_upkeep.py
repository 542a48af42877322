"""Upkeep killed at any step that reaches the disk, and run again, ends as when left in peace."""

import shutil

import pytest

import florence2
from florence2.engine.commands import relocate
from florence2.engine.planning.repair import repair
from florence2.store import Store
from florence2.store.chain import Chain
from tests.engine.doubles import Boxes, Floor, folder_of
from tests.engine.test_kill import Counted, killed, spread
from tests.engine.test_repair import own_names
from tests.fuzz.stores import content, whole_store

POINTS = 12  # of a command's steps, spread evenly


def counted(call):
    """How many steps a call takes."""
    count = Counted()
    with pytest.MonkeyPatch.context() as patch:
        count.install(patch)
        call()
    return count.count


def mend(root, names):
    store = Store(root)
    return repair(store, store.verify(), names, workers=0)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """A store whose every kind of file is damaged, what it held before, and how many steps its repair takes."""
    root = tmp_path_factory.mktemp("whole")
    before = whole_store(root)
    store = Store(root / "s")
    newest = store.snapshot()
    live = {o.run_id for o in newest.operators if not o.replaced}  # the others' files are no more what they were
    of = {(f.run_id, f.table): f.path for f in store.snapshot(newest.compacts).fragments if f.run_id in live}
    compacted = {f.table: f.path for f in newest.fragments if f.is_compacted}
    chosen = [*of.values(), *compacted.values(), "chain/000002.json", f"runs/{newest.operators[0].run_id}.json"]
    parts = {"images", "annotations", "decisions", "failures", "compact", "chain", "runs"}
    assert {path.split("/")[0] for path in chosen} == parts
    for number, path in enumerate(sorted(chosen)):
        if number % 2:
            (store.root / path).unlink()
        else:
            (store.root / path).write_bytes(before[path][: len(before[path]) // 2])
    peace = shutil.copytree(store.root, root / "peace")
    names = own_names(root, 2)
    steps = counted(lambda: mend(peace, names))
    assert content(peace) == before
    return store.root, before, names, steps


@pytest.mark.parametrize("point", range(POINTS))
def test_a_killed_repair_run_again_gives_the_store_back_to_the_byte(damaged, tmp_path, point):
    start, before, names, steps = damaged
    root = shutil.copytree(start, tmp_path / "s")
    assert steps > 3 * POINTS and killed(lambda: mend(root, names), spread(steps, POINTS)[point])
    assert {p: data for p, data in content(root).items() if before.get(p) != data}.keys() <= content(start).keys()
    assert mend(root, names) == [] and content(root) == before and Store(root).verify() == []


@pytest.fixture(scope="module")
def annotated(tmp_path_factory):
    """A store of four snapshots, and its pictures once more elsewhere."""
    root = tmp_path_factory.mktemp("annotated")
    folder = folder_of(root, 5)
    shutil.copytree(folder, root / "moved")
    store = florence2.annotate(folder, root / "s", [Boxes()], workers=0, unit=2)
    florence2.filter(store, [Floor(0.4)])
    store.compact(rows=6)
    return florence2.filter(store, [Floor(0.5)]).root


def parts(root):
    """What a store holds; the chain and records of runs have times in them."""
    return {p: data for p, data in content(root).items() if not p.startswith(("chain/", "runs/"))}


@pytest.mark.parametrize("point", range(POINTS))
def test_a_killed_undo_run_again_steps_back_once(annotated, tmp_path, point):
    peace = shutil.copytree(annotated, tmp_path / "peace")
    steps = counted(lambda: Store(peace).undo())
    root = shutil.copytree(annotated, tmp_path / "s")
    assert steps >= POINTS and killed(lambda: Store(root).undo(), spread(steps, POINTS)[point])
    store = Store(root)
    if Chain(store.storage).newest_snapshot() < 5:  # with the link it had ended
        store.undo()
    assert parts(root) == parts(peace) and store.snapshots() == [1, 2, 3, 4, 5] and store.verify() == []
    assert store.snapshot().phase == {"undo": 3}


@pytest.mark.parametrize("point", range(POINTS))
def test_a_killed_relocate_run_again_moves_all_once(annotated, tmp_path, point):
    places = annotated.parent / "pictures", annotated.parent / "moved"
    peace = shutil.copytree(annotated, tmp_path / "peace")
    steps = counted(lambda: relocate(peace, *places))
    root = shutil.copytree(annotated, tmp_path / "s")
    assert steps >= POINTS and killed(lambda: relocate(root, *places), spread(steps, POINTS)[point])
    if len(Store(root).snapshots()) == 4:
        assert relocate(root, *places) == 5
    else:  # it had ended but for the chain, which the next command mends
        with pytest.raises(ValueError, match="none of its pictures lies below"):
            relocate(root, *places)
    assert parts(root) == parts(peace) and Store(root).verify() == []
    assert {row.image.uri for row in Store(root).images()} == {str(path) for path in places[1].iterdir()}
