"""A specialist as a predictor for evaluation: a callable from (sample, ask) pairs to answers.

Its annotations of a picture are put into a bare sample, and the task's own rule reads the answer from there; so a
detector, an OCR engine and a model are scored by the same metrics.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Mapping, Sequence

from florence2.codec.tasks import Task, known_tasks, task_of
from florence2.engine import specialists
from florence2.engine.operator import Specialist, fingerprint
from florence2.model.device import to_device
from florence2.predictor.images import each_in_place, load_or_failure
from florence2.records import Ask, Failure, Parsed, Result, Sample

CARDS = (".yaml", ".yml")
REMEMBERED = 64  # pictures whose annotations are kept for their further asks


def open_as_predictor(
    name: str, device: str | None = None, tasks: Mapping[str, Task] | None = None
) -> SpecialistPredictor | None:
    """The specialist that a name means (rapidocr, student:M, card.yaml, file.py:Class), to be asked; else None."""
    head = name.partition(":")[0]
    if name in specialists.SPECIALISTS or head in specialists.WITH_ARGUMENT or name.endswith(CARDS) or ".py:" in name:
        return SpecialistPredictor(specialists.open(name), str(to_device(device)), tasks)
    return None


class SpecialistPredictor:
    """Asks a specialist; set up on first use. `tasks`: else its own table (a student's), else the known tasks."""

    def __init__(self, specialist: Specialist, device: str = "cpu", tasks: Mapping[str, Task] | None = None):
        self.specialist, self.device = specialist, device
        self.tasks = dict(tasks or getattr(specialist, "tasks", None) or known_tasks())
        self._ready = False
        self._annotated_by_key: OrderedDict[tuple[str, str], Sample | Failure] = OrderedDict()

    @property
    def identity(self) -> str:
        """Changes when the specialist would answer otherwise."""
        return fingerprint(self.specialist)

    def __call__(self, pairs: Sequence[tuple[Sample, Ask]]) -> list[Result]:
        """One Parsed or Failure for each pair, in order."""
        new = {_key(sample): sample for sample, _ in pairs if _key(sample) not in self._annotated_by_key}
        self._annotated_by_key.update(zip(new, self.annotate(list(new.values()))))
        results = [self._answer(self._annotated_by_key[_key(sample)], ask) for sample, ask in pairs]
        while len(self._annotated_by_key) > REMEMBERED:
            self._annotated_by_key.popitem(last=False)
        return results

    def annotate(self, samples: Sequence[Sample]) -> list[Sample | Failure]:
        """Each picture's bare sample with the specialist's annotations, or why there are none."""
        if not self._ready:
            self.specialist.setup(self.device)
            self._ready = True
        bare = [Sample(sample.id, sample.image) for sample in samples]
        out: list[Sample | Failure] = []
        for start in range(0, len(bare), max(1, self.specialist.spec.batch_size)):
            batch = bare[start : start + max(1, self.specialist.spec.batch_size)]
            images = [load_or_failure(sample.image, self.specialist.spec.max_pixels) for sample in batch]
            loaded = [i if isinstance(i, Failure) else (s, i) for s, i in zip(batch, images)]
            results = each_in_place(loaded, lambda good: self.specialist.annotate(*map(list, zip(*good))))
            out += map(_filled, batch, results)
        return out

    def _answer(self, annotated: Sample | Failure, ask: Ask) -> Result:
        """What the annotated sample holds for an ask; nothing where it holds nothing."""
        if isinstance(annotated, Failure):
            return annotated
        asked = dataclasses.replace(ask, text_id="")
        for own, answer in task_of(ask.task, self.tasks).truths(annotated):
            if dataclasses.replace(own, text_id="", task=ask.task) == asked:
                return answer
        return Parsed()


def _key(sample: Sample) -> tuple[str, str]:
    return sample.image.id or sample.id, sample.image.uri


def _filled(bare: Sample, result: Result) -> Sample | Failure:
    """The bare sample with a Parsed's items; those without a name get one."""
    if isinstance(result, Failure):
        return result
    return dataclasses.replace(
        bare,
        texts=tuple(t if t.id else dataclasses.replace(t, id=f"t{n}") for n, t in enumerate(result.texts)),
        regions=tuple(r if r.id else dataclasses.replace(r, id=f"r{n}") for n, r in enumerate(result.regions)),
        groundings=tuple(g if g.id else dataclasses.replace(g, id=f"g{n}") for n, g in enumerate(result.groundings)),
    )
