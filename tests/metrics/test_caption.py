"""Caption metrics against pycocoevalcap, and the tokenizer against recorded output of the Penn Treebank one."""

import numpy as np
import pytest

from florence2.metrics.caption import Captions
from florence2.metrics.caption_tokens import words

# what Stanford's PTBTokenizer -lowerCase gave, pycocoevalcap's punctuation dropped
RECORDED = {
    "A man's t-shirt, don't look!": "a man 's t-shirt do n't look",
    'He said "hello" (twice) to Mr. Smith of the U.S.A.': "he said hello -lrb- twice -rrb- to mr. smith of the u.s.a.",
    "It costs $3.50, or 1,000 yen; 50% off...": "it costs $ 3.50 or 1,000 yen 50 % off",
    "a black/white photo -- and/or a dog & cat": "a black/white photo and/or a dog & cat",
    "they'll've can't cannot gonna wanna I'm you're": "they 'll 've ca n't can not gon na wan na i 'm you 're",
    "rock 'n' roll 'tis the dogs' toys": "rock 'n' roll 't is the dogs toys",
    "10:30 a.m. on 12/25/2018 no. 5": "10:30 a.m. on 12/25/2018 no. 5",
    "A dog; a cat: a bird. A fish?": "a dog a cat a bird a fish",
    "email me@x.com http://a.b/c": "email me@x.com http://a.b/c",
    "1/2 cup 3-year-old boy's  #1 @home": "1/2 cup 3-year-old boy 's # 1 @home",
    "a café naïve 中文": "a café naïve 中文",
    "e.g. i.e. etc. vs. Dr. St. Ave.": "e.g. i.e. etc. vs. dr. st. ave.",
    "A couple of people are sitting down . They eat .": "a couple of people are sitting down they eat",
    "[brackets] {braces} <tag>": "-lsb- brackets -rsb- -lcb- braces -rcb- <tag>",
    "the '90s and 1990s": "the '90s and 1990s",
    "a_b c*d e=f a+b": "a_b c * d e = f a + b",
    "mid-air low-light wi-fi u.s. navy ph.d.": "mid-air low-light wi-fi u.s. navy ph.d.",
    "- dash - and – en — em": "dash and en em",
    "Hello...world": "hello world",
    "one,two three.four": "one two three.four",
    "A man with a hat.A dog": "a man with a hat.a dog",
    "Jennifer M. Anderson for a 15-year term": "jennifer m. anderson for a 15-year term",
    "Thanks!! Really!?": "thanks !! really !?",
}


@pytest.mark.parametrize("text", RECORDED)
def test_words_equal_the_recorded_treebank_output(text):
    assert words(text) == RECORDED[text].split()


def random_captions(rng, count):
    vocabulary = "a the dog cat man red blue on in runs sits with ball tree two of".split()

    def caption():
        return " ".join(rng.choice(vocabulary, rng.integers(0, 12)))

    truth = [[caption() or "a dog" for _ in range(rng.integers(1, 6))] for _ in range(count)]
    return truth, [caption() for _ in range(count)]


@pytest.mark.parametrize("seed", range(12))
def test_scores_equal_pycocoevalcap(seed):
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    truth, found = random_captions(np.random.default_rng(seed), 200)
    metric = Captions()
    for references, candidate in zip(truth, found):
        metric.update(references, candidate)
    ours = metric.compute()
    gts = {i: references for i, references in enumerate(truth)}
    res = {i: [candidate] for i, candidate in enumerate(found)}
    assert ours["CIDEr"] == pytest.approx(Cider().compute_score(gts, res)[0], abs=1e-9)
    assert ours["ROUGE_L"] == pytest.approx(Rouge().compute_score(gts, res)[0], abs=1e-9)
    bleu, _ = Bleu(4).compute_score(gts, res, verbose=0)
    assert [ours[f"BLEU{n}"] for n in (1, 2, 3, 4)] == pytest.approx(bleu, abs=1e-9)


def test_perfect_is_the_maximum_and_empty_the_minimum():
    texts = ["a red dog runs on the grass", "two cats sit in a blue box", "the man holds a big umbrella"]
    perfect, empty = Captions(), Captions()
    for text in texts:
        perfect.update([text], text)
        empty.update([text], "")
    assert perfect.compute()["CIDEr"] == pytest.approx(10)
    assert perfect.compute()["BLEU4"] == pytest.approx(1) and perfect.compute()["ROUGE_L"] == pytest.approx(1)
    assert all(value == pytest.approx(0, abs=1e-6) for value in empty.compute().values())
    assert Captions().compute()["CIDEr"] == 0


def test_a_bare_string_is_refused():
    with pytest.raises(ValueError, match="expected a list"):
        Captions().update("a dog", "a dog")


def test_a_resample_scores_its_rows():
    metric = Captions()
    for text in ("a red dog", "a blue cat sits"):
        metric.update([text, "some other words here"], text if "dog" in text else "")
    assert metric.compute([0, 0])["CIDEr"] > metric.compute([0, 1])["CIDEr"] > metric.compute([1])["CIDEr"] == 0
