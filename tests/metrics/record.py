"""Writes recorded/*.jsonl.gz: random cases with what the field's reference tools say of them. Run by hand.

    python tests/metrics/record.py FOLDER

FOLDER holds unpacked wheels, none of which is needed to run the tests (pip download --no-deps NAME==VERSION):

    vqa.jsonl.gz        salesforce-lavis 1.0.2, its Python 3 port of the official VQA evaluation
    textvqa.jsonl.gz    lmms-eval 0.7.3, the answer processor of TextVQA's challenge server
    anls.jsonl.gz       anls 0.0.2
    errors.jsonl.gz     jiwer 4.0.0 (over rapidfuzz 3): a set of texts a line, its character and word error rates
    referring.jsonl.gz  lmms-eval 0.7.3, accuracy of a box at IoU 0.5
    treebank.jsonl.gz   pycocoevalcap 1.2 with its Stanford CoreNLP 3.4.1 (Java): captions and sentences, their words

A line is a list: the inputs, then the reference's output.
"""

from __future__ import annotations

import contextlib
import gzip
import importlib.util
import io
import json
import random
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

RECORDED = Path(__file__).parent / "recorded"
WORDS = """a an the The A yes no Yes NO none zero one two ten 3 10 1,000 2.5 0.5 dog dogs cat's dogs' red blue
black/white
dont don't cant isnt its it's somebody'd oclock o'clock yall im I'm Im couldntve couldnt've ow'sat t-shirt U.S. st. 7:30
12/25 50% $3.50 #1 (left) [x] "quoted" hot-dog e.g. café na\u00efve a.b no. left, right; on:off x=y a+b who?
well... nokia Nokia
it\u2019s v1.0 @home `code` under_score up! *star* <tag> ca\\se""".split()


ADJECTIVES = """red small old-fashioned black/white well-lit half-eaten 3-year-old man's multi-coloured tan semi-truck's
snow-covered two-story U.S. 1980s off-white "fancy" so-called 12-inch (empty) smiling dark, light""".split()
NOUNS = """dog cats' bus, t-shirt street tennis player can't-miss sign; woman's hat X-box Wii remote hot-dog
bear 747 jet
co-worker o'clock Mr. Smith Dr. Pepper no. 5 train #42 Coca-Cola bottle McDonald's cup 7-Eleven store TV
(old)""".split()
LINKS = "and on near next to isn't by doesn't have with - that's & in front of, -- wearing can't hold which is".split()
READS = ["reading", "that says", "with the words", "labelled", ":", "which reads", ","]
SIGNS = """"STOP" 'stop' "Main St." 10:30 6:30am $3.50 50% 1/2 1,000 20th 100%! "R&B" AT&T M&M's p.m. 5 a.m. 12/25/2018
555-1234 www.foo.com me@foo.com "don't" 'n' J.R. B. 4x4 1st 35mm (left) [right] u.s.a. 9/11 24/7 70's '90s A-4
"EXIT!" 3D
\u201cOPEN\u201d caf\u00e9 St. Louis, Inc. etc. no. 7, a.k.a. "Bob's" 5'10" @home #win it's \u00a35 10\u20ac
\u2026 \u2014 1.5 -20""".split()
TRICKY = """A man's t-shirt, don't look!
He said "hello" (twice) to Mr. Smith of the U.S.A.
they'll've can't cannot gonna wanna gotta gimme lemme I'm you're shouldn't've
rock 'n' roll 'tis 'twas the dogs' toys, rock'n'roll
10:30 a.m. on 12/25/2018 no. 5, no. five
email me@x.com http://a.b/c www.foo.com foo.com/bar a@b
1/2 cup 3-year-old boy's  #1 @home 1 1/2 cups, 100/200
[brackets] {braces} <tag> <b>bold</b> <br/> a<b a>b <3
the '90s and 1990s, 90s, 1990's '80 '72, 5'10" 6'
a_b c*d e=f a+b foo--bar -foo foo- _b b_ a__b
- dash - and \u2013 en \u2014 em --- ---- ----- .. ... .... \u2026
# ## ### * ** *** _ __ ___ ~~ ^ | || \\ << >> == + ++ !! ?? !?
\u2018q\u2019 \u201cq\u201d \u00abq\u00bb 'q' ''q'' ``q`` `q'
plan B.
vitamin C. It helps
vitamin C. helps
Jennifer M. Anderson, J. K. Rowling, J.R.R. Tolkien
the end of the Mass.
St. Louis st. Ave. Dr. Mr. Mrs. jr. Jr. Sr. vs. Mt. Ft. St x
Jan. 5 Feb. Mar. Apr. May. Sept. Mon. Tue. Sat. Sun. x
Inc. Co. Corp. Ltd. Dept. Assn. Univ. Bros. etc. et al. cf. x
fig. 5 fig. figs. pp. 5 ca. 5 approx. 7 lb., 10 oz., 20 in.
(713) 853-3242 713-853-3242 853-3242 +1 212 899 4425 1-800-555-1234
6:30am 6am 6 A.M. 6:30-7:30 6-7 10.5 .5 -5 +5 - 5 5-5 1,000,000 1,2 1, 2 3,000lb
o'clock O'Reilly d'Artagnan l'eau dunkin' c'mon y'all ma'am 'em 'til ol' e'er shi'ite Hawai'i goin'
:) :-) ;) :D :P =) :( :/ ^_^ -_- :o) xD
hello!there hello?there hello.there hello,there hello;there hello:there
A4 4x4 3-D 21st 100% 35mm f/2.8 1.5L 2.0GHz US$5 C$5 $5M \u00a35 \u20ac10 5\u00a2 \u00a57 \u00bd cup
AT&T P&L g&t A&B H&M M&M's Ben & Jerry's COCA-COLA Toys"R"Us 7/11
Ph.D. M.D. B.A. D.C. a.k.a. p.m. i.e. e.g. i.e., P.O. Box R.I.P
caf\u00e9 na\u00efve \u00fcber \u4e2d\u6587 \u043f\u0440\u0438\u0432\u0435\u0442
"I'm," he said. a(b)c (1) 1) a)""".split("\n")


def phrase(rng: random.Random, most: int = 4) -> str:
    """A few words, sometimes with a mark, a break or a space where none belongs."""
    text = rng.choice([" ", " ", " ", "\n", "\t", "  ", ", ", " . "]).join(rng.choices(WORDS, k=rng.randint(1, most)))
    return rng.choice([text, text, text, text.lower(), text + ".", " " + text, text.upper()])


def people(rng: random.Random) -> list[str]:
    """Ten answers, many of them equal."""
    said = [phrase(rng, 2) for _ in range(rng.choice([1, 2, 3, 5]))]
    return [rng.choice(said) for _ in range(10)]


def misread(rng: random.Random, text: str, rate: float) -> str:
    """The text with letters changed, lost and doubled."""
    out = []
    for letter in text:
        roll = rng.random()
        out.append(letter if roll > rate else rng.choice(["", letter * 2, "x", " "]))
    return "".join(out)


def caption(rng: random.Random) -> str:
    """A caption as people write them: signs read out, times, prices, contractions, names, marks."""
    thing = lambda: f"{rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}"  # noqa: E731
    parts = [rng.choice(["a", "the", "two", "an old", "A", "The"]), thing()]
    for _ in range(rng.randint(1, 3)):
        parts += [rng.choice(LINKS), rng.choice(["a", "the", "his", "3", "some"]), thing()]
        if rng.random() < 0.6:
            parts += [rng.choice(READS), rng.choice(SIGNS)]
    text = " ".join(parts)
    return text + rng.choice(["", ".", ".", " .", "!", "...", "?"])


def vqa(folder: Path, rng: random.Random) -> Iterable[list[Any]]:
    module = _module(folder, "lavis/common/vqa_tools/vqa_eval.py")
    for _ in range(3000):
        truth = people(rng)
        found = rng.choice([*truth, phrase(rng, 2), "", rng.choice(truth).lower() + "."])
        answers = [{"answer": answer, "answer_id": n} for n, answer in enumerate(truth)]
        asked = {"answers": answers, "question_type": "", "answer_type": ""}
        said = SimpleNamespace(qa={0: {"answer": found}})
        evaluation = module.VQAEval(SimpleNamespace(qa={0: asked}, getQuesIds=lambda: [0]), said, n=12)
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.evaluate()
        yield [truth, found, round(evaluation.accuracy["overall"] / 100, 12)]


def textvqa(folder: Path, rng: random.Random) -> Iterable[list[Any]]:
    process = _module(folder, "lmms_eval/tasks/_task_utils/vqa_eval_metric.py").EvalAIAnswerProcessor()
    for _ in range(2000):
        truth = people(rng)
        found = rng.choice([*truth, phrase(rng, 2), "", rng.choice(truth).lower() + "."])
        answers, answer = [process(t) for t in truth], process(found)
        scores = [min(1.0, sum(a == answer for a in answers[:n] + answers[n + 1 :]) / 3) for n in range(10)]
        yield [truth, found, round(sum(scores) / 10, 12)]


def anls(folder: Path, rng: random.Random) -> Iterable[list[Any]]:
    sys.path.insert(0, str(_home(folder, "anls/metrics/score.py")))
    from anls.metrics import anls_score

    for _ in range(4000):
        truth = [phrase(rng) for _ in range(rng.randint(1, 3))]
        found = rng.choice([misread(rng, rng.choice(truth), rng.random() * 0.8), phrase(rng), ""])
        yield [truth, found, anls_score(found, truth, 0.5)]


def errors(folder: Path, rng: random.Random) -> Iterable[list[Any]]:
    for name in ("jiwer/__init__.py", "rapidfuzz/__init__.py"):
        sys.path.insert(0, str(_home(folder, name)))
    import jiwer

    for _ in range(400):
        truth = [" ".join(phrase(rng, 6).split()) for _ in range(rng.randint(1, 8))]
        found = [" ".join(misread(rng, text, rng.random()).split()) for text in truth]
        yield [truth, found, jiwer.cer(truth, found), jiwer.wer(truth, found)]


def referring(folder: Path, rng: random.Random) -> Iterable[list[Any]]:
    source = _home(folder, "lmms_eval/tasks/refcoco/utils_rec.py") / "lmms_eval/tasks/refcoco/utils_rec.py"
    text = source.read_text().replace("from datasets import Dataset", "Dataset = None")  # only its types are used
    text = "\n".join(line for line in text.splitlines() if not line.startswith("from loguru"))
    module = ModuleType("utils_rec")
    exec(compile(text, str(source), "exec"), module.__dict__)
    for _ in range(3000):
        x, y, w, h = (rng.randint(1, 60) for _ in range(4))
        move = rng.choice([3, 10, 30])
        found = [v + rng.randint(-move, move) for v in (x, y, x + w, y + h)]
        found = [min(found[0], found[2]), min(found[1], found[3]), max(found[0], found[2]), max(found[1], found[3])]
        if found[0] < found[2] and found[1] < found[3]:
            yield [[x, y, x + w, y + h], found, bool(module.compute_accuracy([x, y, x + w, y + h], found))]


def treebank(folder: Path, rng: random.Random) -> Iterable[list[Any]]:
    sys.path.insert(0, str(_home(folder, "pycocoevalcap/tokenizer/ptbtokenizer.py")))
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    texts = [*TRICKY, *(caption(rng) for _ in range(3000))]
    asked = {n: [{"caption": text}, {"caption": "x"}] for n, text in enumerate(texts)}  # a next line may be looked at
    words = PTBTokenizer().tokenize(asked)
    for n, text in enumerate(texts):
        yield [text, words[n][0]]


def _home(folder: Path, name: str) -> Path:
    """The unpacked wheel that holds the file."""
    homes = [path for path in (folder, *sorted(folder.iterdir())) if (path / name).is_file()]
    if not homes:
        raise SystemExit(f"{folder}: no unpacked wheel holds {name}")
    return homes[0]


def _module(folder: Path, name: str) -> Any:
    spec = importlib.util.spec_from_file_location(Path(name).stem, _home(folder, name) / name)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(folder: Path) -> None:
    RECORDED.mkdir(exist_ok=True)
    for make in (vqa, textvqa, anls, errors, referring, treebank):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in make(folder, random.Random(0)))
        file = RECORDED / f"{make.__name__}.jsonl.gz"
        file.write_bytes(gzip.compress(lines.encode("utf-8"), mtime=0))
        print(f"{file.name}: {lines.count(chr(10)):,} cases, {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
