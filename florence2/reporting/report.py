"""Report on a store or a run: choose the sections, write the page."""

from __future__ import annotations

from pathlib import Path

from florence2 import sources
from florence2.reporting.html_page import check_page, page, save
from florence2.reporting.picture_cards import Load
from florence2.reporting.round_sections import round_sections
from florence2.reporting.run_sections import run_sections
from florence2.reporting.stores import store_sections
from florence2.sources import files
from florence2.store import Store, is_store


def report(
    path: str | Path,
    out: str | Path,
    pictures: int = 24,
    load: Load = sources.pixels,
    beside: str | Path | None = None,
    rounds: tuple[int, int] | None = None,
) -> Path:
    """Write a page about the store or the run at `path`; at most `pictures` pictures are shown. Returns `out`.

    `beside` is the folder of a second evaluation, whose scores are shown next to the first's. `rounds`: of a store what
    changed between two rounds of its refinement, 0 being before the first.
    """
    path = Path(path)
    if pictures < 0:
        raise ValueError(f"pictures {pictures}: expected 0 or more")
    check_page(out)
    if is_store(path):
        store = Store(path)
        sections = (
            store_sections(store, load, pictures)
            if rounds is None
            else round_sections(store, *rounds, load=load, pictures=pictures)
        )
        name, place = store.root.name, files.absolute_of(store.root)
        subtitle = f"Store {place}, snapshot {store.snapshot().number}"
    else:
        if rounds is not None:
            raise ValueError(f"{path}: is no store; only a store has rounds")
        if not path.is_dir():
            raise ValueError(f"{path}: no such folder; name a store or the folder of a run")
        sections, subtitle = run_sections(path, Path(beside) if beside else None, pictures), f"Run {path.resolve()}"
        name = path.resolve().name
    return save(page(name, *sections, subtitle=subtitle), out)
