"""The page about an evaluation: scores, the control, another run beside it, mistakes drawn."""

import numpy as np
import pytest

from florence2 import pixels
from florence2.evaluation import compare, evaluate
from florence2.records import ImageRef, Parsed, Region, Sample
from florence2.reporting.report import report


@pytest.fixture
def runs(tmp_path):
    """Two evaluations of the same three pictures, the second one worse."""
    truth = []
    for n, label in enumerate(("cat", "cat", "<i>dog</i>")):
        file = tmp_path / f"{n}.png"
        file.write_bytes(pixels.encode(np.full((40, 60, 3), 90, np.uint8)))
        region = Region("r", box=(5, 5, 30, 30), label=label)
        truth.append(Sample(str(n), ImageRef(file.name, str(file), width=60, height=40), regions=(region,)))

    def answering(labels):
        def answer(pairs):
            found = (Region(box=(5, 5, 30, 30), label=labels[int(s.id)], score=0.8) for s, _ in pairs)
            return [
                Parsed() if s.image.uri.startswith("grey:") else Parsed(regions=(r,)) for (s, _), r in zip(pairs, found)
            ]

        return answer

    evaluate(answering(["cat", "cat", "cow"]), truth, "OD", tmp_path / "good", resamples=20)
    evaluate(answering(["cow", "cat", "cow"]), truth, "OD", tmp_path / "bad", resamples=20, grey=False)
    return tmp_path / "good", tmp_path / "bad", truth


def test_the_page_shows_scores_mistakes_and_the_other_run(runs, tmp_path):
    good, bad, _ = runs
    page = report(good, tmp_path / "page.html", beside=bad).read_text()
    for words in ("Worst answers", "What was taken for what", "grey picture", "precision over recall", "difference"):
        assert words in page
    assert "<i>dog" not in page and "&lt;i&gt;dog&lt;/i&gt;" in page  # labels are never markup
    assert page.count("data:image/jpeg") == 3  # one mistake: its truth, its answer, the other run's
    assert "At the right the answer of bad" in page
    differences = [row["value"] for row in compare(good, bad).values()]
    assert max(differences) > 0.2 and all(f"{value:+.3f}" in page for value in differences)
    assert "Differences are paired" in page and "no difference seen" in page
    unlike = tmp_path / "unlike"
    evaluate(lambda pairs: [Parsed()] * len(pairs), runs[2][:2], "OD", unlike, resamples=5, grey=False)
    assert "have no interval: " in report(good, tmp_path / "unlike.html", beside=unlike).read_text()
    alone = report(bad, tmp_path / "alone.html", pictures=1).read_text()
    assert "grey picture" not in alone and alone.count("data:image/jpeg") == 2


def test_what_is_no_evaluation_is_refused(runs, tmp_path):
    (runs[1] / "predictions.jsonl").write_text("[1]\n")
    with pytest.raises(ValueError, match="predictions.jsonl:1: not a line of predictions"):
        report(runs[0], tmp_path / "page.html", beside=runs[1])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="scores.json: does not exist; evaluate first"):
        report(runs[0], tmp_path / "page.html", beside=tmp_path / "empty")
    (runs[0] / "details.json").write_text("[")
    with pytest.raises(ValueError, match="details.json: not JSON"):
        report(runs[0], tmp_path / "page.html")
