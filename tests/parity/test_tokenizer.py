"""The tokenizer: official ids in order, equal to the real one on strings of every kind, from every folder shape."""

import hashlib
import json
import random
import shutil

import pytest

from benchmarks.official.compare import PROMPTS
from florence2.codec.answers import encode, parse_ids
from florence2.codec.grammar import automaton
from florence2.codec.tasks import ask_of
from florence2.codec.tokenizer import ADDED_TOKENS, CONTROL_TOKENS, Tokenizer
from tests.fixtures import bart_tokenizer, florence2_tokenizer

LABELS = {"car": [5901], "wheel": [13630], "wheels": [28884, 2507], "door handle": [11219, 3679]}


def saved(target):
    """BART's vocabulary with our tokens, as `save` writes it."""
    Tokenizer.load(bart_tokenizer(target)).save(target / "saved")
    return target / "saved"


def plain_bart(folder, target):
    """tokenizer.json as Microsoft ships it: BART's, without the 1,024 added tokens."""
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"] = [row for row in content["added_tokens"] if row["id"] < 50265]
    target.mkdir()
    (target / "tokenizer.json").write_text(json.dumps(content))


def vocabulary_and_merges(folder, target):
    target.mkdir()
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(folder / name, target / name)


def with_added_tokens(folder, target):
    vocabulary_and_merges(folder, target)
    shutil.copy(folder / "added_tokens.json", target / "added_tokens.json")


SHAPES = {
    "florence2 as it is": florence2_tokenizer,
    "bart, fairseq's files": bart_tokenizer,
    "plain tokenizer.json": lambda target: plain_bart(saved(target.parent), target),
    "vocab.json, merges.txt": lambda target: vocabulary_and_merges(saved(target.parent), target),
    "with added_tokens.json": lambda target: with_added_tokens(saved(target.parent), target),
}


@pytest.fixture(scope="module", params=SHAPES)
def official(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizers") / "folder"
    SHAPES[request.param](folder)
    return Tokenizer.load(folder)


PUBLISHED = "bf75eaa4f2f3ce95aa52e6297f741e5e8a6c1689e74b43e63bf2a390b85ba5db"  # sha256 of the published file's content


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The published file, opened by the library alone."""
    import tokenizers

    file = florence2_tokenizer(tmp_path_factory.mktemp("real")) / "tokenizer.json"
    backend = tokenizers.Tokenizer.from_file(str(file))
    backend.no_padding()
    return backend


def test_the_published_file_is_put_together_to_the_last_key(tmp_path):
    content = json.loads((florence2_tokenizer(tmp_path) / "tokenizer.json").read_text(encoding="utf-8"))
    assert hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest() == PUBLISHED


def test_the_official_ids_in_order(official):
    assert official.vocab_size == 51289 and official.image_id == 51289 and official.loc0 == 50269
    assert [official.id_of(token) for token in CONTROL_TOKENS] == [0, 1, 2, 3] and official.id_of("<mask>") == 50264
    assert [official.id_of(token) for token in ADDED_TOKENS] == list(range(50265, 51289))


def test_published_prompts_and_labels(official):
    for prompt, ids in PROMPTS.items():
        assert official.prompt_ids(ask_of(prompt).prompt) == ids
    for label, ids in LABELS.items():
        assert official.encode(label) == official.encode(label, specials=False) == ids


GENERATED = {  # published ids of the base model on a picture of 640 x 480
    "<OPEN_VOCABULARY_DETECTION>": (
        [2, 0, 28884, 2507, 50413, 50839, 51139, 51047, 28884, 2507, 50980, 50842, 51135, 51043, 28884, 2507, 50417,
         50848, 50573, 51043, 2],
        ["wheels", "wheels", "wheels"], [92.48, 273.84, 557.12, 373.68]),
    "<OD>": (
        [2, 0, 5901, 50322, 50602, 51202, 51043, 11219, 3679, 50694, 50772, 50743, 50784, 13630, 50978, 50845, 51134,
         51041, 50419, 50853, 50578, 51042, 2],
        ["car", "door handle", "wheel", "wheel"], [34.24, 160.08, 597.44, 371.76]),
}  # fmt: skip


@pytest.mark.parametrize("task", GENERATED)
def test_published_answers(official, task):
    ids, labels, first = GENERATED[task]
    parsed, spans = parse_ids(ids, official, task, (640, 480))
    assert [region.label for region in parsed.regions] == labels and not parsed.truncated
    assert [round(value, 2) for value in parsed.regions[0].box] == first
    assert encode(parsed, task, official, (640, 480)) == ids[2:-1]  # a target is what the model writes
    machine = automaton(task, official)
    state = machine.start()
    for position, index in enumerate(ids[2:]):
        assert index in machine.allowed(state, len(ids) - 2 - position)
        state = machine.advance(state, index)
    assert machine.accepts(state)


def strings(count):
    rng = random.Random(11)
    words = "The quick brown fox, don't you're we'll I'm 3.14 1,000 http://a.b/c?d=e café naïve 汽车 🚗🏽 İ ß ﬁ".split(
        " "
    )
    words += ["\u200b", "\x00", "\ufeff"]
    extra = [
        "<loc_5>",
        "<s>",
        "</s>",
        "<mask>",
        " <mask>",
        "<poly>",
        "<and>",
        "<loc_1000>",
        "<OD>",
        "\n\n",
        "\t",
        "   ",
        "\u3000",
        "##",
        "#1",
    ]
    for index in range(count):
        if index % 3 == 0:
            yield "".join(
                chr(rng.choice([rng.randrange(32, 127), rng.randrange(1, 0xD7FF)])) for _ in range(rng.randrange(30))
            )
        else:
            parts = [rng.choice(extra if rng.random() < 0.25 else words) for _ in range(rng.randrange(12))]
            yield rng.choice(["", " "]).join(parts)


def test_equal_to_the_real_tokenizer_on_5000_strings(official, real):
    for text in strings(5000):
        ids = real.encode(text, add_special_tokens=False).ids
        assert official.encode(text) == ids, repr(text)
        assert official.decode(ids) == real.decode(ids, skip_special_tokens=False), repr(text)
        plain = official.encode(text, specials=False)
        assert not set(plain) & official.special_ids and official.decode(plain) == text


def test_saved_folders_open_in_transformers(tmp_path):
    from transformers import AutoTokenizer

    official = Tokenizer.load(bart_tokenizer(tmp_path / "bart"))
    official.save(tmp_path, image_token=True)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.image_token_id == 51289 and theirs.image_token == "<image>"
    for text in strings(300):
        assert theirs(text, add_special_tokens=False).input_ids == official.encode(text)
    again = Tokenizer.load(tmp_path)
    assert again.vocab_size == 51290 and again.image_id == 51289 and again.appended == ()


def test_a_fine_tune_s_extra_tokens_come_before_the_image(tmp_path, real):
    content = json.loads(real.to_str())
    content["added_tokens"].append({**content["added_tokens"][-1], "id": 51289, "content": "<VQA>"})
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = Tokenizer.load(tmp_path)
    assert (tokenizer.id_of("<VQA>"), tokenizer.vocab_size, tokenizer.image_id) == (51289, 51290, 51290)
    tokenizer.save(tmp_path / "native", image_token=True)
    assert Tokenizer.load(tmp_path / "native").id_of("<image>") == 51290


# ---- a vocabulary of its own


@pytest.fixture(scope="module")
def own():
    return Tokenizer.train(["a green car parked in front of a yellow building"] * 4, 300)


def test_a_vocabulary_of_its_own(own, tmp_path):
    from transformers import AutoTokenizer

    assert [own.id_of(token) for token in CONTROL_TOKENS] == [0, 1, 2, 3]
    assert [own.id_of(token) for token in ADDED_TOKENS] == list(range(own.vocab_size - 1024, own.vocab_size))
    own.save(tmp_path)
    again, theirs = Tokenizer.load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    for text in strings(300):
        assert again.encode(text) == own.encode(text) == theirs(text, add_special_tokens=False).input_ids
        plain = own.encode(text, specials=False)
        assert own.decode(plain) == text and not set(plain) & own.special_ids
    (tmp_path / "tokenizer.json").unlink()
    assert Tokenizer.load(tmp_path).encode("a car<loc_7>é") == own.encode("a car<loc_7>é")


def test_broken_letters_are_marked_and_padding_rows_say_nothing(own):
    assert own.decode(own.encode("é", specials=False)[:1]) == "\ufffd"
    assert own.decode([own.vocab_size + 5]) == "" and own.token_bytes(own.loc0) == b"<loc_0>"


def test_folders_that_hold_no_tokenizer_are_refused(tmp_path, own):
    with pytest.raises(ValueError, match="no tokenizer"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match="tokenizer.json: not a tokenizer"):
        Tokenizer.load(tmp_path)
    own.save(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["added_tokens"] = [row for row in content["added_tokens"] if row["content"] != "<loc_7>"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="<loc_7>|not a tokenizer"):
        Tokenizer.load(tmp_path)
    for token in ("<s>", "<pad>"):
        content["model"]["vocab"][token] = 1 - content["model"]["vocab"][token]
    content["added_tokens"] = []
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="<s> at id 0"):
        Tokenizer.load(tmp_path)
    with pytest.raises(ValueError, match="not in the vocabulary"):
        own.id_of("<nothing>")
    with pytest.raises(ValueError, match="surrogate"):
        own.encode("\ud800")


@pytest.mark.parametrize("index", [4_000_000_000, 0, 7])
def test_an_added_token_that_would_get_another_id_than_its_file_says_is_refused(tmp_path, own, index):
    own.save(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    row = next(row for row in content["added_tokens"] if row["content"] == "<and>")
    expected, row["id"] = row["id"], index
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="tokenizer.json: added_tokens: ") as refusal:
        Tokenizer.load(tmp_path)
    assert str(index) in str(refusal.value) and "\n" not in str(refusal.value)
    row["id"] = expected
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert Tokenizer.load(tmp_path).vocab_size == own.vocab_size


def test_two_tokens_of_one_id_are_refused(tmp_path, own):
    own.save(tmp_path / "saved")
    vocabulary_and_merges(tmp_path / "saved", tmp_path / "there")
    vocabulary = json.loads((tmp_path / "there" / "vocab.json").read_text())
    (tmp_path / "there" / "vocab.json").write_text(json.dumps({**vocabulary, "qqqq": vocabulary["a"]}))
    with pytest.raises(ValueError, match="have the one id"):
        Tokenizer.load(tmp_path / "there")
