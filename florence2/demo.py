"""The main job end to end, on pictures that packages carry and pictures drawn here, in minutes on two cores.

Specialists annotate; filters judge; a student trains on what was kept and re-annotates pictures it never saw; sources
are merged; every phase is scored against the drawn pictures' truth; a page shows it all. It only joins the rooms below:
whatever happens here is a call a user can make.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from florence2 import predictor, reporting, scenes
from florence2.engine import annotate, filter
from florence2.engine.specialists.specialist_predictor import SpecialistPredictor
from florence2.engine.specialists.student import StudentSpecialist
from florence2.formats import jsonl
from florence2.metrics.detection import DetectionF1, match
from florence2.metrics.ocr import TextErrors
from florence2.pixels import load
from florence2.records import Sample
from florence2.refinement import refine
from florence2.reporting.claims_section import Claim, claims_table, moved
from florence2.store import Store

FIRST_UNSEEN_SEED = scenes.TRAINING_SEEDS  # nano never saw a scene from here on
SHOWN = FIRST_UNSEEN_SEED + 3  # a scene with a sign, on which all 15 tasks can be asked
PHOTOS = {  # scikit-image's own pictures; the names that its wheel carries
    "astronaut": "astronaut.png",
    "cat": "chelsea.png",
    "coffee": "coffee.png",
    "motorcycle": "motorcycle_left.png",
    "rocket": "rocket.jpg",
    "page": "page.png",
}
TASKS = {"OD": 1.0, "OCR_WITH_REGION": 0.1}  # what the students annotate, and how often each is trained
EXAMPLES = 3  # pictures that gained most, and as many that lost most
CLAIMS = {  # what the run is asked to show, and the two phases that it compares
    "Filters make the specialists' labels better": ("filtered", "specialists"),
    "Students are better than the model they started from": ("student alone", "nano, not trained further"),
    "Students alone are better than the labels they were taught": ("student alone", "filtered"),
    "Merging students and labels is better than the labels": ("merged", "filtered"),
    "Filters make better students (equal steps)": ("student alone", "no filter: student alone"),
    "Filters make a better merged view (equal steps)": ("merged", "no filter: merged"),
}
NO_EFFECT = 0.005  # a smaller change of F1 is called none
GROUPS = ("all", "known", "withheld")
OFFICIAL = "microsoft/Florence-2-base"

Message = Callable[[str], None]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class DemoConfig:
    """How much of everything; the default fits ten minutes of two cores, installation included."""

    scenes: int = 1600
    pages: int = 40
    photos: tuple[str, ...] = tuple(PHOTOS)
    """Which of scikit-image's pictures are annotated."""
    every: int = 3
    """Every n-th scene has kinds that nano has never seen."""
    steps: int = 64
    batch_size: int = 32
    lr: float = 8e-4
    seed: int = 7

    def recipe(self, tasks: Mapping[str, float]) -> dict[str, Any]:
        """The students' training, in the keys of `train`; half of what they are shown are scenes of nano's training."""
        return {
            "steps": self.steps,
            "batch_size": self.batch_size,
            "lr": self.lr,
            "warmup_steps": max(1, self.steps // 20),
            "schedule": "linear",
            "dense": 1.0,
            "source": {"tasks": dict(tasks)},
        }


QUICK = DemoConfig(
    scenes=36, pages=2, photos=("astronaut", "cat"), steps=6, batch_size=8
)  # every phase, in about half a minute of processor time


@dataclass(frozen=True)
class PhaseScores:
    """One phase: what it kept and threw out, and what that is worth beside the truth."""

    name: str
    scores: dict[str, dict[str, float]]
    """precision, recall and F1 of rightly named boxes at IoU 0.5, of all drawn objects, known and withheld kinds."""
    text_accuracy: float | None = None
    """1 - character error rate on the drawn pages."""
    beside: str = ""
    """The phase that `gain` compares with."""
    gain: float | None = None
    kept: int | None = None
    not_kept: dict[str, int] = field(default_factory=dict)
    """Of each reason: what was rejected, and what was superseded, as boxes are that were fused."""
    pictures: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    """Of each drawn scene: boxes right, kept, true."""

    @property
    def effect(self) -> str:
        """The gain in F1 in words."""
        if self.gain is None:
            return ""
        return "no effect" if abs(self.gain) < NO_EFFECT else f"{self.gain:+.3f} over {self.beside}"


@dataclass(frozen=True)
class DemoResult:
    """What the demo found, and where its page is."""

    rows: list[PhaseScores]
    claims: list[Claim]
    rounds: list[str]
    page: Path
    store: Path
    seconds: float


def demo(
    out: str | Path = "demo_out",
    config: DemoConfig = DemoConfig(),
    on_message: Message = print,
    progress: Progress | None = None,
) -> DemoResult:
    """Run it all into the folder `out`, in place of an earlier demo there."""
    out, began = fresh(Path(out)), time.monotonic()

    def step(line: str) -> None:
        on_message(f"[{time.monotonic() - began:4.0f} s] {line}")

    step(f"drawing {config.scenes} scenes and {config.pages} pages; copying {len(config.photos)} photographs")
    photos = photographs(out / "photos", config.photos)
    truth_file = scenes.write(out / "scenes", drawn_scenes(config))
    pages_file = scenes.write(out / "pages", drawn_pages(config))
    truth = Truth(truth_file, pages_file)

    step(
        "phase 1, specialists: simulated and composer on scenes, RapidOCR on pages, RapidOCR and OpenCV on photographs"
    )
    store = annotate(
        out / "scenes" / "images", out / "store", [f"simulated:{truth_file}", "composer"], workers=0, progress=progress
    )
    annotate(out / "pages" / "images", store.root, ["rapidocr"], progress=progress)
    annotate(photos, store.root, ["rapidocr", "opencv"], progress=progress)
    annotated = store.snapshot().number
    step("phase 2, filters: scores, sizes, overlaps; texts by a spaCy parse")
    filter(store, progress=progress)
    filtered = store.snapshot().number
    step(f"phase 3, refinement: two students of {config.steps} steps, each annotates the half it never saw")
    lines = [line for done in refine_by(store, config, None, progress) for line in done.lines()]
    for line in lines:
        step(line)
    step("controls: nano not trained further; students of everything, unfiltered, of as many steps")
    everything = annotate(
        out / "scenes" / "images", out / "unfiltered", [f"simulated:{truth_file}"], workers=0, progress=progress
    )
    unfiltered = refine_by(everything, config, [], progress, {"OD": 1.0})
    control_lines = [f"control without filters, {line}" for done in unfiltered for line in done.lines()]
    for line in control_lines:
        step(line)
    nano = truth.judged("nano, not trained further", untrained(truth))

    rows = [nano]
    for number, name in ((annotated, "specialists"), (filtered, "filtered")):
        rows.append(truth.judged(name, store.samples(number), store, number))
    student = truth.judged("student alone", map(students_own, store.samples(view="all")))
    merged = truth.judged("merged", store.samples(), store)
    control = truth.judged("no filter: student alone", map(students_own, everything.samples(view="all")))
    control_merged = truth.judged("no filter: merged", everything.samples(), everything)
    rows += [student, merged, control, control_merged]
    rows = compared(rows)
    found = {row.name: row.pictures for row in rows}
    claims = [reporting.claim(text, found[better], found[than]) for text, (better, than) in CLAIMS.items()]
    for one in claims:
        step(one.line())
    step("writing the page")
    lines += control_lines
    page = write_page(out / "report.html", rows, claims, lines, store)
    return DemoResult(rows, claims, lines, page, store.root, time.monotonic() - began)


def fresh(out: Path) -> Path:
    """The folder, emptied of an earlier demo; one that holds anything else is refused."""
    mark = out / ".florence2-demo"
    if out.exists():
        if any(out.iterdir()) and not mark.exists():
            raise ValueError(f"{out}: holds files that no demo wrote; name another folder with --out")
        shutil.rmtree(out)
    out.mkdir(parents=True)
    mark.touch()
    return out


def photographs(folder: Path, names: Iterable[str] = tuple(PHOTOS)) -> Path:
    """Pictures that scikit-image's wheel carries, copied without importing it."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError('scikit-image: not installed; pip install "florence2[demo]"')
    data = Path(next(iter(spec.submodule_search_locations))) / "data"
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        file = PHOTOS[name]
        shutil.copyfile(data / file, folder / f"{name}{Path(file).suffix}")
    return folder


def drawn_scenes(config: DemoConfig) -> Iterator[tuple[Any, Sample]]:
    """Held-out scenes without signs; every n-th with kinds that nano has never seen."""
    for i in range(config.scenes):
        yield scenes.draw(FIRST_UNSEEN_SEED + config.seed * 1_000_000 + i, signs=0.0, withheld=i % config.every == 0)


def drawn_pages(config: DemoConfig) -> Iterator[tuple[Any, Sample]]:
    """Held-out receipts, to be read."""
    for i in range(config.pages):
        yield scenes.draw_page(FIRST_UNSEEN_SEED + config.seed * 1_000_000 + i)


class Truth:
    """The drawn pictures' truth, and what any view of the store is worth beside it."""

    def __init__(self, *files: Path) -> None:
        self.of: dict[str, Sample] = {}
        for file in files:
            for sample in jsonl.read(file):
                self.of[Path(sample.image.uri).name] = sample

    def judged(
        self, name: str, found: Iterable[Sample], store: Store | None = None, snapshot: int | None = None
    ) -> PhaseScores:
        """A phase's row: boxes that have the right name at IoU 0.5, and the share of page letters read rightly."""
        groups = {group: DetectionF1() for group in GROUPS}
        letters, pages = TextErrors(), 0
        pictures: dict[str, tuple[int, int, int]] = {}
        for sample in found:
            truth = self.of.get(Path(sample.image.uri).name)
            if truth is None:  # a photograph
                continue
            if not any(r.kind == "object" for r in truth.regions):
                pages += 1
                letters.update(*paired_lines(truth, sample))
                continue
            truths, predicted = (
                [r for r in s.regions if r.kind == "object" and not r.refines] for s in (truth, sample)
            )
            before = len(groups["all"])
            for label in {r.label for r in (*truths, *predicted)}:
                of_label = [[r for r in regions if r.label == label] for regions in (truths, predicted)]
                groups["all"].update(*of_label)
                groups["withheld" if label in scenes.WITHHELD_KINDS else "known"].update(*of_label)
            right = sum(matched for _, _, matched, _ in groups["all"].rows[before:])
            pictures[Path(sample.image.uri).name] = right, len(predicted), len(truths)
        scores = {group: metric.compute() for group, metric in groups.items()}
        accuracy = max(0.0, 1 - letters.compute()["CER"]) if pages else None
        kept, not_kept = (None, {}) if store is None else tally(store, snapshot)
        return PhaseScores(name, scores, accuracy, kept=kept, not_kept=not_kept, pictures=pictures)


def paired_lines(truth: Sample, found: Sample) -> tuple[str, str]:
    """The page's true lines in reading order, and beside each what was read at its place; the rest at the end."""
    true = [r for r in truth.regions if r.kind == "text"]
    read = [r for r in found.regions if r.kind == "text"]
    place = {t: f for t, f, _ in match(true, read, 0.1)}
    beside = [read[place[i]].label if i in place else "" for i in range(len(true))]
    rest = [r.label for i, r in enumerate(read) if i not in set(place.values())]
    return "\n".join(r.label for r in true), "\n".join(beside + rest)


def tally(store: Store, snapshot: int | None = None) -> tuple[int, dict[str, int]]:
    """How many annotations a snapshot keeps, and how many not for each reason, the most frequent first."""
    kept, not_kept = 0, Counter[str]()
    for row in store.tally(snapshot):
        if row["status"] == "kept":
            kept += row["count"]
        else:
            not_kept[row["reason"] or row["rule"]] += row["count"]
    return kept, dict(not_kept.most_common())


def students_own(sample: Sample) -> Sample:
    """What students answered, whatever rules and merging made of it: as nano and the control's students are counted."""
    regions = tuple(r for r in sample.regions if r.source and r.source.kind == "model")
    return dataclasses.replace(sample, regions=regions, texts=(), groundings=(), decisions=())


def untrained(truth: Truth, model: str = "nano", batch: int = 64) -> list[Sample]:
    """The drawn pictures as a model sees them that learned nothing from the store; nothing is stored."""
    student = StudentSpecialist(model, list(TASKS), batch)
    found = SpecialistPredictor(student).annotate(list(truth.of.values()))
    student.close()
    return [sample for sample in found if isinstance(sample, Sample)]


def refine_by(
    store: Store,
    config: DemoConfig,
    rules: Any,
    progress: Progress | None,
    tasks: Mapping[str, float] = MappingProxyType(TASKS),
) -> list[Any]:
    """One round with two folds; students annotate in this process, where torch has both cores."""
    return refine(
        store,
        rounds=1,
        folds=2,
        start="nano",
        recipe=config.recipe(tasks),
        rules=rules,
        seed=config.seed,
        workers=0,
        progress=progress,
        open_student=lambda folder: StudentSpecialist(folder, list(tasks), 64),
    )


def compared(rows: list[PhaseScores]) -> list[PhaseScores]:
    """The rows with what each gained in F1 over the phase it builds on."""
    builds_on = {
        "filtered": "specialists",
        "student alone": "nano, not trained further",
        "merged": "filtered",
        "no filter: student alone": "nano, not trained further",
        "no filter: merged": "specialists",
    }
    value = {row.name: row.scores["all"]["F1"] for row in rows}
    return [
        dataclasses.replace(row, beside=builds_on[row.name], gain=value[row.name] - value[builds_on[row.name]])
        if row.name in builds_on
        else row
        for row in rows
    ]


def row_of(rows: Iterable[PhaseScores], name: str) -> PhaseScores:
    """The row of a phase."""
    return next(row for row in rows if row.name == name)


def claims_section(claims: list[Claim], rows: list[PhaseScores], store: Store) -> reporting.Section:
    """What got better, what did not, and the pictures that gained and lost most from the labels to the merged view."""
    won, lost = moved(row_of(rows, "merged").pictures, row_of(rows, "filtered").pictures, EXAMPLES)
    samples = {Path(s.image.uri).name: s for s in store.samples(view="all")}
    body = [claims_table(claims)]
    for title, names in (("Gained most, from filtered to merged", won), ("Lost most", lost)):
        if names:
            shown = [reporting.sample_card(samples[name], lambda ref: load(ref.uri)) for name in names]
            body += [reporting.element("h3", title), reporting.cards(shown)]
    about = "Each is a claim that this run supports or does not, on the same pictures."
    return reporting.Section("What got better, and what did not", reporting.element("div", *body), about)


def write_page(out: Path, rows: list[PhaseScores], claims: list[Claim], rounds: list[str], store: Store) -> Path:
    """The report: what got better, the table by phase, the rounds, every task on one held-out scene, the store."""
    header = ["phase", "kept", "not kept", *(f"{g} {m}" for g in GROUPS for m in ("P", "R", "F1")), "text", "effect"]
    body = [
        [
            row.name,
            row.kept,
            ", ".join(f"{reason} {count:,}" for reason, count in row.not_kept.items()) or None,
            *(row.scores[g][m] for g in GROUPS for m in ("precision", "recall", "F1")),
            row.text_accuracy,
            row.effect or None,
        ]
        for row in rows
    ]
    image, sample = scenes.draw(SHOWN, objects=(3, 3), signs=1)
    asked = reporting.asks_of(sample)
    answers = predictor.load("nano").predict(image, [ask for ask, _ in asked])
    phases = reporting.Section(
        "By phase",
        reporting.table(header, body),
        "Boxes that have the right name and overlap the true one by half, on drawn pictures whose truth is known; "
        "text is the share of letters read rightly on drawn pages. Withheld kinds are those nano was never shown.",
    )
    rounds_section = reporting.Section(
        "Rounds", reporting.element("div", *map(reporting.paragraph, rounds)), "What each student's training did."
    )
    every = reporting.answers_section(
        image,
        [(ask, answer, true) for (ask, true), answer in zip(asked, answers)],
        "Every task",
        "One held-out scene, and what nano as shipped answers to each of the 15 tasks; the truth beside it.",
    )
    sections = reporting.store_sections(store, lambda ref: load(ref.uri), 30)
    about = "Specialists annotate, filters judge, a student trains and re-annotates, sources are merged."
    told = (claims_section(claims, rows, store), phases, rounds_section, every, *sections)
    return reporting.save(reporting.page("florence2 demo", *told, subtitle=about), out)
