"""The table of tasks: 15 official rows, two shipped questions, and a user's own. A row is the whole truth of a task.

A row is strings only. Its output kind decides how an answer is written and parsed (answers.py, grammar.py); its storage
rule where a Sample holds its truth (truths.py). In tasks.json and `register` they are called `gives` and `keeps`.

    output kind      target between <s> and </s>                     storage rule
    text             letters                                         brief, detailed, more_detailed, ocr, answer
    quads            (text 8 locations)*                             text
    labelled_boxes   (label (4 locations)+)*                         label, description
    boxes            (4 locations)*                                  box
    phrases          (phrase (4 locations)+)*                        caption
    polygons         part (<sep> part)*, or (<poly> .. </poly>)*     expression, region
    open_boxes       (label 4 locations | label <poly> .. </poly>)*  query
    region_text      text 4 locations                                label, description, text
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from florence2 import geometry
from florence2.codec import truths as rules
from florence2.codec.locations import location, quantize
from florence2.records import Ask, Parsed, Sample, Source
from florence2.structuring import parse_json

STORAGE_RULES: dict[str, dict[str, str]] = {  # output kind -> storage rule -> input kind
    "text": {"brief": "", "detailed": "", "more_detailed": "", "ocr": "", "answer": "text"},
    "quads": {"text": ""},
    "labelled_boxes": {"label": "", "description": ""},
    "boxes": {"box": ""},
    "phrases": {"caption": "text"},
    "polygons": {"expression": "text", "region": "region"},
    "open_boxes": {"query": "text"},
    "region_text": {"label": "region", "description": "region", "text": "region"},
}
CLOSED = ("labelled_boxes", "phrases", "open_boxes", "region_text")  # kinds that a set of labels can close
INPUT = "{input}"
_TOKEN = re.compile(r"<[A-Za-z][A-Za-z0-9_-]*>")
ROW = ("token", "prompt", "gives", "keeps")  # a row's keys in tasks.json


@dataclass(frozen=True)
class Task:
    """One task: `output_kind` is the form of its answers, `storage_rule` says where a Sample keeps its truth."""

    token: str
    prompt: str
    output_kind: str
    storage_rule: str

    @property
    def name(self) -> str:
        """The token without brackets."""
        return self.token.strip("<>")

    @property
    def input_kind(self) -> str:
        """What the prompt needs beside the picture: "", "text" or "region"."""
        return STORAGE_RULES[self.output_kind][self.storage_rule] if INPUT in self.prompt else ""

    def question_of(self, question: str) -> str:
        """A kept question without the prompt around it: `<VQA>How many?` is the question of that prompt's task and of
        no other (""); a task without a token asks it as it is."""
        head, _, tail = self.prompt.partition(INPUT)
        if self.token and head and question.startswith(head) and question.endswith(tail):
            return question[len(head) : len(question) - len(tail)]
        return "" if self.token and _TOKEN.match(question) else question

    def truths(self, sample: Sample) -> list[tuple[Ask, Parsed]]:
        """All (ask, true answer) pairs that the sample's current view holds, boxes and labels in target order.

        Equal asks are alternatives: five captions of one picture are five pairs. An empty answer is a truth only where
        the sample's coverage says so. The answers keep the ids of the sample's items.
        """
        return rules.truths(self, sample)

    def judged_truths(self, sample: Sample) -> list[tuple[Ask, Parsed]]:
        """`truths` as an evaluation needs them: with what is ignored (crowds, unreadable words), and of answers to a
        question every person's, since people are counted."""
        return rules.judged_truths(self, sample)

    def add(self, sample: Sample, ask: Ask, parsed: Parsed, source: Source) -> Sample:
        """The sample with an answer's items appended under ids of their own and `source`; nothing is replaced."""
        return rules.add(self, sample, ask, parsed, source)


def _table(*rows: tuple[str, str, str, str]) -> dict[str, Task]:
    return {row[0]: Task(*row) for row in rows}


TASKS: dict[str, Task] = _table(  # in the order in which the official processor matches them
    ("<OCR>", "What is the text in the image?", "text", "ocr"),
    ("<OCR_WITH_REGION>", "What is the text in the image, with regions?", "quads", "text"),
    ("<CAPTION>", "What does the image describe?", "text", "brief"),
    ("<DETAILED_CAPTION>", "Describe in detail what is shown in the image.", "text", "detailed"),
    ("<MORE_DETAILED_CAPTION>", "Describe with a paragraph what is shown in the image.", "text", "more_detailed"),
    ("<OD>", "Locate the objects with category name in the image.", "labelled_boxes", "label"),
    (
        "<DENSE_REGION_CAPTION>",
        "Locate the objects in the image, with their descriptions.",
        "labelled_boxes",
        "description",
    ),
    ("<REGION_PROPOSAL>", "Locate the region proposals in the image.", "boxes", "box"),
    ("<CAPTION_TO_PHRASE_GROUNDING>", "Locate the phrases in the caption: {input}", "phrases", "caption"),
    ("<REFERRING_EXPRESSION_SEGMENTATION>", "Locate {input} in the image with mask", "polygons", "expression"),
    ("<REGION_TO_SEGMENTATION>", "What is the polygon mask of region {input}", "polygons", "region"),
    ("<OPEN_VOCABULARY_DETECTION>", "Locate {input} in the image.", "open_boxes", "query"),
    ("<REGION_TO_CATEGORY>", "What is the region {input}?", "region_text", "label"),
    ("<REGION_TO_DESCRIPTION>", "What does the region {input} describe?", "region_text", "description"),
    ("<REGION_TO_OCR>", "What text is in the region {input}?", "region_text", "text"),
)

QUESTIONS: dict[str, Task] = _table(  # conventions of public fine-tunes, no task of the released checkpoints
    ("<DocVQA>", "<DocVQA>{input}", "text", "answer"),
    ("<VQA>", "<VQA>{input}", "text", "answer"),
)

RAW = Task(
    "", INPUT, "text", "answer"
)  # a prompt without a known task: its answer is plain text, as the reference has it

PROMPT = "PROMPT"  # the name by which RAW is trained on and evaluated

REGISTERED: dict[str, Task] = {}  # a user's own rows, by `register`


def register(token: str, prompt: str, gives: str, keeps: str) -> Task:
    """Add a task of one's own: four strings, as in the table; {input} in the prompt is where text or region goes.

    Models that are made or loaded from then on have it in their table.
    """
    task = checked(Task(token, prompt, gives, keeps))
    known = known_tasks().get(token)
    if known is not None and known != task:
        raise ValueError(f"task {token}: already there with the prompt {known.prompt!r}; choose another token")
    if known is None:
        REGISTERED[token] = task
    return task


def checked(task: Task) -> Task:
    """The task, or ValueError saying which of its strings does not fit."""
    if len(task.token) < 3 or task.token[0] != "<" or task.token[-1] != ">" or set(task.token[1:-1]) & set("<> \n"):
        raise ValueError(f"task token: expected letters in angle brackets as <COUNT>, got {task.token!r:.60}")
    if task.output_kind not in STORAGE_RULES:
        raise ValueError(
            f"task {task.token}: gives: expected one of {', '.join(STORAGE_RULES)}, got {task.output_kind!r:.60}"
        )
    if task.storage_rule not in STORAGE_RULES[task.output_kind]:
        expected = f"{', '.join(STORAGE_RULES[task.output_kind])} for {task.output_kind}"
        raise ValueError(f"task {task.token}: keeps: expected one of {expected}, got {task.storage_rule!r:.60}")
    needs = STORAGE_RULES[task.output_kind][task.storage_rule]
    if (INPUT in task.prompt) != bool(needs) and task.storage_rule != "answer":
        wanted = f"{INPUT} for the {needs}" if needs else f"no {INPUT}"
        raise ValueError(f"task {task.token}: prompt: expected {wanted}, got {task.prompt!r:.200}")
    return task


def known_tasks() -> dict[str, Task]:
    """What a model's table begins with: the official and shipped rows, and those that `register` added."""
    return {**TASKS, **QUESTIONS, **REGISTERED}


def task_of(name: str | Task, tasks: Mapping[str, Task] | None = None) -> Task:
    """The task of a token or a name without brackets in a model's table, or without one among the known rows."""
    if isinstance(name, Task):
        return name
    if name is None or name == "" or name == PROMPT:
        return RAW
    if not isinstance(name, str):
        raise ValueError(f"task: expected a task's name, got {name!r:.80}")
    token = name if name.startswith("<") else f"<{name}>"
    table = known_tasks() if tasks is None else tasks
    if token not in table:
        raise ValueError(f"task {name!r}: unknown; expected one of {', '.join(t.strip('<>') for t in table)}")
    return table[token]


def save_tasks(tasks: Mapping[str, Task], folder: str | Path) -> None:
    """Write the rows that are not official as tasks.json; nothing where there are none."""
    rows = [dict(zip(ROW, dataclasses.astuple(task))) for token, task in tasks.items() if TASKS.get(token) != task]
    if rows:
        (Path(folder) / "tasks.json").write_text(
            json.dumps(rows, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
        )


def _from_row(token: str, prompt: str, gives: str, keeps: str) -> Task:
    return Task(token, prompt, gives, keeps)


def load_tasks(folder: str | Path) -> dict[str, Task]:
    """The known rows, and those of the folder's tasks.json."""
    path = Path(folder) / "tasks.json"
    table = known_tasks()
    if not path.is_file():
        return table
    try:
        rows = parse_json(path.read_text(encoding="utf-8"))
        tasks = [checked(_from_row(**row)) for row in rows]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: expected a list of rows token, prompt, gives, keeps; {str(error):.700}") from None
    return {**table, **{task.token: task for task in tasks}}


def ask_of(prompt: str, tasks: Mapping[str, Task] | None = None) -> Ask:
    """The Ask of a prompt as a user wrote it, sent as the official processor sends it.

    The first token of the table that occurs anywhere decides; a task without input must be the whole string; for the
    others every occurrence of the token is taken out and the rest, stripped, is the input.
    """
    for token in known_tasks() if tasks is None else tasks:
        if token not in TASKS and prompt.startswith(token):
            return Ask(task=token, text=prompt[len(token) :], prompt=prompt)
    for token, task in TASKS.items():
        if token in prompt:
            text = prompt.replace(token, "").strip()
            if not task.input_kind and prompt != token:
                raise ValueError(f"prompt: expected {token} alone (it takes no input), got {prompt!r:.200}")
            return Ask(task=token, text=text, prompt=task.prompt.replace(INPUT, text))
    return Ask(prompt=prompt)


def prompt_text(ask: Ask, size_wh: tuple[int, int], tasks: Mapping[str, Task] | None = None) -> str:
    """The prompt as it goes to the tokenizer: `ask.prompt` as written, else the task's with the ask's input in it."""
    if ask.prompt:
        return ask.prompt
    task = task_of(ask.task, tasks)
    if ask.labels and task.output_kind not in CLOSED:
        raise ValueError(f"{task.name}: takes no labels; they close detection, grounding and region-to-category only")
    if ask.region and task.input_kind != "region":
        raise ValueError(f"{task.name}: takes no region; expected one of the REGION_TO_ tasks")
    if not task.input_kind:
        if ask.text:
            raise ValueError(f"{task.name}: takes no text, got {ask.text!r:.80}; give the task alone")
        return task.prompt
    return task.prompt.replace(INPUT, _input(task, ask, size_wh))


def check_corners(region: Sequence[float]) -> None:
    """Refuse a box that somebody asks about from another corner than its left top one: a number of it is wrong."""
    if len(region) == 4 and (region[2] < region[0] or region[3] < region[1]):
        got = ", ".join(f"{value:g}" for value in region)
        raise ValueError(f"region: expected x1, y1, x2, y2 with x1 <= x2 and y1 <= y2, got {got}; swap its corners")


def _input(task: Task, ask: Ask, size_wh: tuple[int, int]) -> str:
    named = "region" if task.input_kind == "region" else "labels" if task.output_kind == "open_boxes" else ""
    if ask.text.strip() and named and getattr(ask, named):
        raise ValueError(f"{task.name}: text, {named}: either is what is asked about, got both; drop one")
    if task.input_kind == "region" and ask.region:
        if len(ask.region) < 4 or len(ask.region) % 2:
            raise ValueError(f"{task.name}: region: expected x1, y1, x2, y2 or a flat polygon, got {ask.region!r:.100}")
        corners = geometry.ordered(ask.region) if len(ask.region) == 4 else ask.region
        return "".join(location(index) for index in quantize(corners, size_wh))
    if task.output_kind == "open_boxes" and ask.labels:
        return "<and>".join(ask.labels)
    text = ask.text.strip()
    if not text:
        wanted = "a region (x1, y1, x2, y2 in pixels)" if task.input_kind == "region" else "a text"
        raise ValueError(f"{task.name}: expected {wanted} beside the picture, got none")
    return text
