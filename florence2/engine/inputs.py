"""What an operator sees of a unit: its pictures, and which earlier annotations and verdicts. References only."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass

from florence2.engine.operator import unit_id
from florence2.records import Sample
from florence2.store import Operator, Store, Unit, UnitGroup


@dataclass(frozen=True)
class UnitInputs:
    """A unit, the runs whose annotations are read, and those whose verdicts are, up to a place (round, seq)."""

    unit: Unit
    runs: frozenset[str] = frozenset()
    verdicts: frozenset[str] = frozenset()
    before: tuple[int, int] = (0, 0)

    @classmethod
    def of(
        cls,
        unit: Unit,
        runs: Collection[str] = (),
        verdicts: Collection[str] = (),
        before: tuple[int, int] = (0, 0),
    ) -> UnitInputs:
        """With only those of the unit's fragments that are read: it is sent to a worker."""
        read = {"annotations": frozenset(runs), "decisions": frozenset(verdicts)}
        found = {
            table: tuple(
                f for f in unit.group.fragments.get(table, ()) if wanted and (not f.run_id or f.run_id in wanted)
            )
            for table, wanted in read.items()
        }
        bare = dataclasses.replace(unit, group=UnitGroup(unit.group.units, found), others=())
        return cls(bare, read["annotations"], read["decisions"], before)

    def uid(self, operator: Operator) -> str:
        """The name of an operator's work on these pictures."""
        return unit_id([sample.image.id for sample in self.unit.samples], operator.fingerprint, operator.round)

    def load(self, store: Store) -> list[Sample]:
        """The samples with these annotations and verdicts, in order."""
        samples = store.annotations(self.unit, self.runs)
        return store.decisions(self.unit, samples, self.verdicts, self.before) if self.verdicts else samples
