"""What the rules share: which items a rule may judge, and how a verdict is written."""

from __future__ import annotations

from florence2.records import Decision, Item

BY_PEOPLE = ("human", "import")


def by_people(item: Item) -> bool:
    """What a person made or a data set brought: no rule judges it."""
    return item.source is not None and item.source.kind in BY_PEOPLE


def verdict(item: Item, keep: bool, value: float | None, threshold: float | None, by_id: str = "") -> Decision:
    """Kept or rejected; the filter adds its name and reason."""
    return Decision(item.id, "kept" if keep else "rejected", "", "", value, threshold, by_id)
