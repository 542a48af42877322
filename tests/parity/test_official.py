"""The official dictionaries: published vectors, and transformers' own processor on thousands of generated strings."""

import math
import random

import pytest

from florence2.codec import official as module
from florence2.codec.official import BANNED_PHRASES, avg_loc_scores, decode_with_spans, official
from florence2.codec.tasks import TASKS, ask_of
from florence2.codec.tokenizer import Tokenizer

CAR = (
    "car<loc_53><loc_333><loc_933><loc_774>wheel<loc_704><loc_576><loc_866><loc_772>"
    "<loc_149><loc_584><loc_310><loc_773>"
)
PHRASES = (
    "A green car<loc_54><loc_330><loc_911><loc_780>a yellow building<loc_0><loc_8><loc_998><loc_635>"
    "it<loc_0><loc_8><loc_998><loc_635>"
)


def locations(*bins):
    return "".join(f"<loc_{b}>" for b in bins)


def ids_tokenizer():
    return Tokenizer.train(["a green car and a yellow building", "wheel door handle 汽车"] * 3, 300)


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    """transformers' own processor around a small tokenizer; nothing is fetched."""
    from transformers import AutoTokenizer, CLIPImageProcessor
    from transformers.models.florence2.processing_florence2 import Florence2Processor

    folder = tmp_path_factory.mktemp("tokenizer")
    ids_tokenizer().save(folder, image_token=True)
    images = CLIPImageProcessor()
    images.image_seq_length = 577
    rules = {kind: {} for kind in set(module.KINDS.values()) | {"description_with_polygons"}}
    rules["phrase_grounding"] = {"banned_grounding_tokens": sorted(BANNED_PHRASES)}
    return Florence2Processor(images, AutoTokenizer.from_pretrained(folder), post_processor_config=rules)


VECTORS = [  # task, text, size, the remote code's floats to two places, transformers' ints
    ("<OD>", f"</s><s>{CAR}</s>", (640, 480),
     [[34.24, 160.08, 597.44, 371.76], [450.88, 276.72, 554.56, 370.80], [95.68, 280.56, 198.72, 371.28]],
     [[34, 160, 597, 371], [450, 276, 554, 370], [95, 280, 198, 371]]),
    ("<CAPTION_TO_PHRASE_GROUNDING>", PHRASES, (640, 480),
     [[34.88, 158.64, 583.36, 374.64], [0.32, 4.08, 639.04, 305.04]], [[34, 158, 583, 374], [0, 4, 639, 305]]),
    ("<REGION_PROPOSAL>", locations(*range(13)), (1000, 1000),
     [[i + 0.5 for i in range(j, j + 4)] for j in (0, 4, 8)], [list(range(j, j + 4)) for j in (0, 4, 8)]),
    ("<OD>", f"cat{locations(187, 312, 187, 312)}", (576, 576), [[108.0, 180.0] * 2], [[107, 179] * 2]),  # in float32
]  # fmt: skip


@pytest.mark.parametrize("task, text, size_wh, floats, ints", VECTORS)
def test_published_boxes(task, text, size_wh, floats, ints):
    said = official(text, task, size_wh)[task]
    assert [[round(v, 2) for v in box] for box in said["bboxes"]] == floats
    assert official(text, task, size_wh, style="transformers")[task]["bboxes"] == ints


def test_published_polygons():
    two = (
        f"<poly>{locations(*range(1, 7))}<sep>{locations(*range(7, 13))}</poly><poly>{locations(*range(21, 27))}</poly>"
    )
    said = official(two, "<REFERRING_EXPRESSION_SEGMENTATION>", (1000, 1000), "transformers")
    parts = said["<REFERRING_EXPRESSION_SEGMENTATION>"]["polygons"]
    assert parts == [[[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]], [[21, 22, 23, 24, 25, 26]]]
    odd = official(locations(*range(7)), "<REGION_TO_SEGMENTATION>", (1000, 1000), "transformers")
    assert odd["<REGION_TO_SEGMENTATION>"] == {"polygons": [[[0, 1, 2, 3, 4, 5]]], "labels": [""]}
    one = f"<poly>{locations(1, 2, 3, 4, 5, 6)}</poly>"
    open_set = official(f"cat{one}{one}dog{one}", "<OPEN_VOCABULARY_DETECTION>", (1000, 1000))
    assert open_set["<OPEN_VOCABULARY_DETECTION>"]["polygons_labels"] == ["cat", "cat", "dog"]


WORDS = [
    *("car", "wheel ", " a dog", "it", "the image", "café", "汽车", "naïve 中", "a\nb", "\n", " \n x", "x\n", ">", "<",
      "<loc_", "loc_3>cat", "<loc_5", "\u3000y", "<loc_\u0663>", "<ground>", "<obj>", "<od>", "<box>", "</bbox>"),
    "\x85z",
    *("<s>", "</s>", "<pad>", "<<s>pad>", "<poly>", "</poly>", "<sep>", "<and>"),
    *("<loc_1000>", "<loc_99999>", "<loc_007>"),
]  # fmt: skip


def soup(rng):
    """Fragments in any order, with locations in runs that matter."""
    out = []
    for _ in range(rng.randrange(1, 9)):
        out.append(rng.choice(WORDS))
        if rng.random() < 0.8:
            out.append(
                locations(*(rng.randrange(1000) for _ in range(rng.choice([0, 1, 2, 3, 4, 4, 5, 7, 8, 8, 9, 16]))))
            )
        if rng.random() < 0.3:
            out.append(rng.choice(["<sep>", "<poly>", "</poly>", "</poly><poly>"]))
    return "".join(out)


def tidy(rng):
    """Nearly what a model writes, with a cut or a letter changed now and then."""
    box = lambda n=4: locations(*(rng.randrange(1000) for _ in range(n)))  # noqa: E731
    polygon = lambda: "<sep>".join(box(rng.choice([6, 7, 8])) for _ in range(rng.randrange(1, 3)))  # noqa: E731
    place = rng.choice([box, lambda: box(8), lambda: f"<poly>{polygon()}</poly>", polygon])
    items = [rng.choice(WORDS[:14]) * rng.randrange(2) + place() * rng.randrange(1, 3) for _ in range(rng.randrange(5))]
    text = "</s><s>" + "".join(items) + "</s>" * rng.randrange(2)
    if rng.random() < 0.4:
        cut = rng.randrange(len(text) + 1)
        text = text[:cut] + rng.choice(["", "<", ">", "\n", "<poly>", "é"]) + text[cut + rng.randrange(3) :]
    return text


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("make", [soup, tidy])
def test_equal_to_transformers_processor(task, make, processor):
    rng = random.Random(f"{task}{make.__name__}")
    filled = 0
    for _ in range(400):
        text = make(rng)
        size_wh = rng.choice([(640, 480), (1000, 1000), (576, 1080), (37, 4001)])
        theirs = processor.post_process_generation(text=text, task=task, image_size=size_wh)
        assert official(text, task, size_wh, style="transformers") == theirs, repr(text)
        filled += any(theirs[task].values()) if isinstance(theirs[task], dict) else bool(theirs[task])
    assert filled > 120  # the strings are not mostly empty answers


def test_equal_to_transformers_on_ids(processor):
    """`sequence` in place of text: decoded id by id, so letters of several ids are broken as theirs are."""
    tokenizer = ids_tokenizer()
    rng = random.Random(3)
    for _ in range(200):
        ids = [rng.choice([rng.randrange(300), tokenizer.loc0 + rng.randrange(1000)]) for _ in range(40)]
        text, spans = decode_with_spans(ids, tokenizer)
        theirs = processor.post_process_generation(sequence=ids, task="<OD>", image_size=(640, 480))
        ids = ids[1:] if ids[0] == 0 else ids
        assert official(decode_with_spans(ids, tokenizer)[0], "<OD>", (640, 480), "transformers") == theirs
        assert [text[a:b] for a, b in spans] == [
            tokenizer.decode([i]) for i in (ids if len(spans) == len(ids) else [0, *ids])
        ]


def test_prompts_equal_to_transformers(processor):
    """The first token of the table anywhere in the text decides; the rest is the input."""
    rng = random.Random(5)
    parts = [*TASKS, "a car", " ", "{input}", "<loc_1>", "<OD", "OD>", "<VQA>", "<mask>", "\n"]
    refused = 0
    for _ in range(3000):
        text = "".join(rng.choice(parts) for _ in range(rng.randrange(1, 5)))
        if text.startswith("<VQA>"):
            continue  # ours sends these as written, whatever follows
        try:
            theirs = processor._construct_prompts(text)
        except ValueError:
            refused += 1
            with pytest.raises(ValueError, match="alone"):
                ask_of(text)
        else:
            assert ask_of(text).prompt == theirs[0], text
    assert 500 < refused < 2500


def test_remote_code_differs_where_reading_says_so():
    quad = locations(*range(8))
    ocr = official(f"</s><s> CUDA{quad}", "<OCR_WITH_REGION>", (1000, 1000))["<OCR_WITH_REGION>"]
    assert ocr["labels"] == ["</s> CUDA"]  # the first label keeps what only `<s>` was cut from
    assert official("</s><s> a car </s>", "<CAPTION>", (9, 9)) == {"<CAPTION>": " a car "}
    assert official("</s><s> a car </s>", "<CAPTION>", (9, 9), "transformers") == {"<CAPTION>": "a car"}
    broken = f"<loc_121>{locations(1, 2, 3, 4)}<poly>"
    labels = [
        official(broken, "<OPEN_VOCABULARY_DETECTION>", (9, 9), style)["<OPEN_VOCABULARY_DETECTION>"]["polygons_labels"]
        for style in module.STYLES
    ]
    assert labels == [[], []]  # a `<poly>` behind the run is no end of it
    broken = f"<loc_121>{locations(1, 2, 3, 4)}<poly>{locations(1, 2)}</poly>"
    labels = [
        official(broken, "<OPEN_VOCABULARY_DETECTION>", (9, 9), style)["<OPEN_VOCABULARY_DETECTION>"]["polygons_labels"]
        for style in module.STYLES
    ]
    assert labels == [[""], ["loc_121>"]]


def test_remote_scores_of_boxes():
    tokenizer = ids_tokenizer()
    ids = [tokenizer.bos, *tokenizer.encode(f"car{locations(1, 2, 3, 4)}a wheel{locations(5, 6, 7, 8)}"), tokenizer.eos]
    text, spans = decode_with_spans(ids, tokenizer)
    log_probabilities = [-(float(i - tokenizer.loc0) if i >= tokenizer.loc0 else 100.0) for i in ids]
    expected = [math.exp(-2.5), math.exp(-6.5)]
    assert avg_loc_scores(text, spans, log_probabilities) == pytest.approx(expected)
    doubled, spans = decode_with_spans([tokenizer.bos, *ids], tokenizer)
    shifted = avg_loc_scores(doubled, spans, [0.0, *log_probabilities])
    letters = len(tokenizer.encode("car"))  # `<s><s>`: three letters off, so the label's ids are taken in
    assert shifted[0] == pytest.approx(math.exp(-(100 * letters + 10) / (letters + 4)))


def test_an_unknown_style_is_refused_and_an_unknown_task_is_text():
    with pytest.raises(ValueError, match="style"):
        official("", "<OD>", (1, 1), style="hf")
    assert official("<s>12</s>", "<VQA>", (1, 1)) == {"<VQA>": "12"}
