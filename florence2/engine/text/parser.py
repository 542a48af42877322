"""English, parsed by spaCy: the only file that knows that library. It reads a pipeline, turns a text into plain words,
and trains the small pipeline that comes with the project from a Universal Dependencies treebank.

    python -m florence2.engine.text.parser train --data UD_English-EWT --out florence2/weights/parser
    python -m florence2.engine.text.parser score --data UD_English-EWT --model florence2/weights/parser

What is computed from the words (noun chunks, counts, degrees) is in `engine/text/phrases.py`, which knows no spaCy.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib.metadata
import importlib.util
import json
import random
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from florence2.engine.text.phrases import Measures, NounChunk, Word, agree, measure, noun_chunks

BUNDLED = Path(__file__).parents[2] / "weights" / "parser"
INSTALLED = ("en_core_web_trf", "en_core_web_lg", "en_core_web_md", "en_core_web_sm")  # the first one found is used
REMEMBERED = 4096  # parsed texts kept, since several rules judge the same text
DEV_EVERY = 25  # every 25th group of training sentences chooses the best step, so that dev is only ever scored


class Parser:
    """Parses English. `pipeline` is "auto" (an installed `en_core_web_*`, else ours), "bundled", a name or a folder."""

    def __init__(self, pipeline: str = "auto") -> None:
        self.pipeline = _resolve(pipeline)
        self._nlp: Any = None
        self._parsed: OrderedDict[str, tuple[Word, ...]] = OrderedDict()

    @property
    def weights_sha256(self) -> str:
        """The hash of the pipeline's files, or of an installed package's name and version."""
        folder = Path(self.pipeline)
        if not folder.is_dir():
            named = f"{self.pipeline}=={importlib.metadata.version(self.pipeline.replace('_', '-'))}"
            return hashlib.sha256(named.encode()).hexdigest()
        total = hashlib.sha256()
        for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".md"):
            total.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
        return total.hexdigest()

    def parse(self, text: str) -> tuple[Word, ...]:
        """The words of a text with their tags and edges."""
        self.read([text])
        return self._parsed[text]

    def read(self, texts: Iterable[str]) -> None:
        """Parse many texts at once, to be asked for one by one."""
        new = [text for text in dict.fromkeys(texts) if text not in self._parsed]
        if not new:
            return
        if self._nlp is None:
            import spacy

            self._nlp = spacy.load(self.pipeline, exclude=["ner", "lemmatizer"])
        for text, doc in zip(new, self._nlp.pipe(new)):
            self._parsed[text] = _words(doc)
        while len(self._parsed) > max(REMEMBERED, len(new)):
            self._parsed.popitem(last=False)

    def noun_chunks(self, text: str) -> list[NounChunk]:
        """The noun chunks of a text."""
        return noun_chunks(self.parse(text), text)

    def measure(self, text: str) -> Measures:
        """The semantic measures of a text."""
        return measure(self.parse(text), text)


def _resolve(pipeline: str) -> str:
    if pipeline == "auto":
        found = [name for name in INSTALLED if importlib.util.find_spec(name) is not None]
        return found[0] if found else str(BUNDLED)
    if pipeline == "bundled":
        return str(BUNDLED)
    if not Path(pipeline).is_dir() and importlib.util.find_spec(pipeline) is None:
        raise ValueError(
            f"parser {pipeline!r}: expected auto, bundled, a pipeline's folder or an installed package's name"
        )
    return pipeline


def _words(doc: Any) -> tuple[Word, ...]:
    """The words of a spaCy doc; tokens of white space are left out, their dependents go to the next word up."""
    place = {t.i: k for k, t in enumerate(t for t in doc if not t.is_space)}
    words = []
    for token in doc:
        if token.is_space:
            continue
        head = token.head
        while head.is_space and head.head.i != head.i:
            head = head.head
        root = head.i == token.i or head.is_space
        label = "root" if root else token.dep_.lower()
        at = place[token.i]
        words.append(
            Word(
                token.text,
                token.idx,
                token.idx + len(token.text),
                token.pos_,
                label,
                at if root else place[head.i],
                token.tag_,
            )
        )
    return tuple(agree(words))


def read_conllu(path: Path) -> Iterator[list[tuple[str, str, str, int, str, bool]]]:
    """The sentences of a CoNLL-U file: words as (form, upos, xpos, head index, label, space after)."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        words: list[tuple[str, str, str, int, str, bool]] = []
        joined, space = 0, True  # the last word of a multi-word token such as "don't", and whether a space follows it
        for line in lines:
            fields = line.rstrip("\n").split("\t")
            if not line.strip():
                if words:
                    yield words
                words, joined = [], 0
            elif line.startswith("#") or "." in fields[0]:
                continue
            elif "-" in fields[0]:
                joined, space = int(fields[0].split("-")[1]), "SpaceAfter=No" not in fields[9]
            else:
                place = int(fields[0])
                after = place == joined and space if place <= joined else "SpaceAfter=No" not in fields[9]
                head, label = int(fields[6]), fields[7]
                words.append((fields[1], fields[3], fields[4], head - 1 if head else place - 1,
                              "ROOT" if head == 0 else label, after))  # fmt: skip
        if words:
            yield words


def _treebank_part(folder: Path, part: str) -> Path:
    found = sorted(p for p in folder.glob(f"*-ud-{part}.conllu*") if p.suffix in (".conllu", ".gz"))
    if not found:
        raise FileNotFoundError(
            f"{folder}: expected a file *-ud-{part}.conllu or .conllu.gz; give a UD treebank's folder"
        )
    return found[0]


def _without_final_stop(words: list[tuple[str, str, str, int, str, bool]]) -> list[Any]:
    last = len(words) - 1
    if last < 2 or words[last][0] != "." or any(head == last for _, _, _, head, _, _ in words[:last]):
        return words
    return words[:last]


def _docs(path: Path, vocab: Any, seed: int) -> Iterator[Any]:
    """Groups of one to three sentences; in every fifth sentence the final stop is left out, as captions leave it."""
    from spacy.tokens import Doc

    rng = random.Random(seed)
    sentences = list(read_conllu(path))
    while sentences:
        count = rng.choice((1, 1, 2, 3))
        group, sentences = sentences[:count], sentences[count:]
        columns: list[list[Any]] = [[], [], [], [], [], []]
        for words in group:
            words = _without_final_stop(words) if rng.random() < 0.2 else words
            offset = len(columns[0])
            for form, upos, xpos, head, label, space in words:
                for column, value in zip(columns, (form, upos, xpos, head + offset, label, space)):
                    column.append(value)
            columns[5][-1] = True
        fields: Any = dict(zip(("words", "pos", "tags", "heads", "deps", "spaces"), columns))
        yield Doc(vocab, **fields)


def _config(steps: int, stop: int, seed: int, train: Path, held_out: Path) -> Any:
    """spaCy's own CPU "efficiency" settings, with averaged weights and a falling learning rate."""
    from spacy.cli.init_config import init_config

    config = init_config(lang="en", pipeline=["tagger", "morphologizer", "parser"], optimize="efficiency", gpu=False)
    config["paths"] |= {"train": str(train), "dev": str(held_out)}
    config["system"]["seed"] = seed
    config["training"] |= {"max_steps": stop or steps, "patience": 0, "eval_frequency": 500}
    config["training"]["optimizer"] |= {
        "use_averages": True,
        "learn_rate": {
            "@schedules": "warmup_linear.v1",
            "warmup_steps": 250,
            "total_steps": steps,
            "initial_rate": 0.002,
        },
    }
    config["training"]["score_weights"] |= {"tag_acc": 0.1, "pos_acc": 0.1, "dep_uas": 0.5, "dep_las": 0.3}
    config["corpora"]["train"]["augmenter"] = {"@augmenters": "spacy.lower_case.v1", "level": 0.15}
    return config


def train_parser(data: Path, out: Path, steps: int = 6000, stop: int = 0, seed: int = 0) -> dict[str, float]:
    """Train tagger, morphologizer and parser on a UD treebank's train part; write the pipeline, give its dev scores.

    `steps` shapes the learning rate; `stop` ends the run earlier without touching that shape.
    """
    import spacy
    from spacy.tokens import DocBin
    from spacy.training.initialize import init_nlp
    from spacy.training.loop import train

    docs = list(_docs(_treebank_part(data, "train"), spacy.blank("en").vocab, seed))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        DocBin(docs=[d for i, d in enumerate(docs) if i % DEV_EVERY]).to_disk(work / "train.spacy")
        DocBin(docs=docs[::DEV_EVERY]).to_disk(work / "held_out.spacy")
        (work / "model").mkdir()
        config = _config(steps, stop, seed, work / "train.spacy", work / "held_out.spacy")
        train(init_nlp(config), work / "model", stdout=sys.stdout, stderr=sys.stderr)  # not those of its import
        nlp = spacy.load(work / "model" / "model-best")
    strip(nlp, out)
    return score(data, out)


def strip(nlp: Any, out: Path) -> None:
    """Write the pipeline without what parsing does not need: the words it was trained on, and paths of this machine."""
    import spacy

    nlp.config["paths"] = {"train": None, "dev": None, "vectors": None, "init_tok2vec": None}
    nlp.meta |= {
        "name": "ud_ewt",
        "version": "1.0.0",
        "license": "CC BY-SA 4.0",
        "description": "trained on UD_English-EWT",
    }
    nlp.to_disk(out)
    labels = {label for name in nlp.pipe_names for label in nlp.pipe_labels.get(name, ())}
    needed = sorted(set(spacy.blank("en").vocab.strings) | labels | {"ROOT", "dep"})
    (out / "vocab" / "strings.json").write_text(json.dumps(needed, indent=0), encoding="utf-8")


def score(data: Path, model: Path) -> dict[str, float]:
    """Dev scores in percent, on the treebank's own tokens and on raw text."""
    import spacy
    from spacy.tokens import DocBin
    from spacy.training import Corpus

    nlp = spacy.load(model)
    scores: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dev.spacy"
        DocBin(docs=list(_docs(_treebank_part(data, "dev"), nlp.vocab, 0))).to_disk(path)
        for name, gold in (("gold", True), ("raw", False)):
            found = nlp.evaluate(list(Corpus(path, gold_preproc=gold)(nlp)))
            scores |= {
                f"{key}_{name}": round(100 * found[key], 2) for key in ("tag_acc", "pos_acc", "dep_uas", "dep_las")
            }
    return scores


def main() -> None:
    """The parser's recipe as a command."""
    parser = argparse.ArgumentParser(prog="python -m florence2.engine.text.parser")
    commands = parser.add_subparsers(dest="command", required=True)
    train_command = commands.add_parser("train", help="train the pipeline on a UD treebank's train part")
    score_command = commands.add_parser("score", help="score a pipeline on the treebank's dev part")
    for command in (train_command, score_command):
        command.add_argument("--data", type=Path, required=True, help="folder with *-ud-train.conllu[.gz] and -dev")
    train_command.add_argument("--out", type=Path, required=True)
    train_command.add_argument("--steps", type=int, default=6000)
    train_command.add_argument("--stop", type=int, default=0, help="end after so many steps; 0 = after --steps")
    train_command.add_argument("--seed", type=int, default=0)
    score_command.add_argument("--model", type=Path, required=True)
    args = parser.parse_args()
    if args.command == "train":
        scores = train_parser(args.data, args.out, args.steps, args.stop, args.seed)
    else:
        scores = score(args.data, args.model)
    print(json.dumps(scores))


if __name__ == "__main__":
    main()
