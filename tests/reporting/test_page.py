"""Pages: self-contained, escaped, whole; tables, tiles and charts say what they were given."""

import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

from florence2.codec.tasks import TASKS
from florence2.records import Grounding, Parsed, Region, Text
from florence2.reporting import (
    Html,
    Section,
    answer_card,
    answers_section,
    asks_of,
    cards,
    element,
    escape,
    page,
    paragraph,
    save,
    table,
    tiles,
)
from florence2.reporting.charts import curve, histogram
from florence2.reporting.html_page import join, number, shares
from florence2.scenes import draw

EVIL = "</title></style><script>alert(1)</script>\"'><img src=x onerror=y>&\x00\ud800"
VOID = {"meta", "link", "input", "img", "br", "image"}


class Reader(HTMLParser):
    """Collects tags and text; checks that every tag is closed."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.text = [], [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data):
        self.text += data


def read(document):
    reader = Reader()
    reader.feed(document)
    assert not reader.open
    return reader


def test_page_asks_nothing_of_the_network():
    document = page("A", Section("One", paragraph("x")), Section("Two", paragraph("y")), subtitle="z")
    reader = read(document)
    for name, value in reader.attributes:
        if name in ("src", "href", "xlink:href", "action"):
            assert value.startswith(("#", "data:")), (name, value)
    assert "@import" not in document and "url(" not in document
    assert "default-src 'none'" in document and reader.tags.count("script") == 1
    assert [value for name, value in reader.attributes if name == "href" and value != "data:,"] == ["#one", "#two"]


@pytest.mark.parametrize(
    "make",
    [
        lambda text: page(text, Section(text, paragraph(text), lead=text), subtitle=text),
        lambda text: page("p", Section("s", table([text], [[text]], caption=text))),
        lambda text: page("p", Section("s", tiles([(text, text, text)]))),
        lambda text: page("p", Section("s", element("p", text, title=text, class_=text))),
        lambda text: page("p", Section("s", histogram(text, {"kept": [1, 2]}))),
        lambda text: page("p", Section("s", cards([spoken(text)]))),
    ],
)
def test_text_of_strangers_stays_text(make):
    plain, evil = read(make("word")), read(make(EVIL))
    assert evil.tags == plain.tags  # not one element more
    assert [name for name, _ in evil.attributes] == [name for name, _ in plain.attributes]
    assert "alert(1)" in evil.text or any("alert(1)" in (value or "") for _, value in evil.attributes)
    make(EVIL).encode("utf-8")


def spoken(text):
    image = np.zeros((20, 30, 3), np.uint8)
    regions = (Region("a", box=(1, 1, 9, 9), label=text, score=0.5), Region("b", quad=(1, 1, 5, 1, 5, 4, 1, 4)))
    answer = Parsed((Text(text=text, detail="brief"),), regions, (Grounding(phrase=text, region_ids=("b",)),))
    return answer_card(image, text, text, answer, region=(2.0, 2.0, 8.0, 8.0))


def test_html_passes_and_text_does_not():
    assert escape(Html("<b>x</b>")) == "<b>x</b>" and escape("<b>") == "&lt;b&gt;"
    assert element("a", "x", class_=None, href="#", hidden=False) == '<a href="#">x</a>'


def test_table_puts_numbers_at_the_right():
    reader = read(table(["name", "count"], [["a", 1204], ["b", 2]]))
    assert [value for name, value in reader.attributes if name == "class"] == ["scroll", "number", "number", "number"]
    assert "1,204" in reader.text


@pytest.mark.parametrize(("value", "said"), [(0, "0"), (1204, "1,204"), (0.9174, "0.917"), (1234.56, "1,234.6")])
def test_numbers_read_well(value, said):
    assert number(value) == said


def test_shares_add_up():
    widths = [float(w) for w in re.findall(r"width:([\d.]+)%", shares(kept=3, rejected=1, superseded=0))]
    assert widths == [75.0, 25.0]


def test_histogram_bars_are_in_proportion():
    heights = [float(h) for h in re.findall(r'height="([\d.]+)"', histogram("h", {"kept": [1, 4], "rejected": [1, 0]}))]
    assert len(heights) == 3 and max(heights) == pytest.approx(4 * min(heights), abs=0.2)


def test_curve_spans_its_frame():
    points = re.findall(r"[ML]([\d.]+) ([\d.]+)", curve("c", [(0, 4.0), (5, 2.0), (10, 1.0)]))
    assert [float(y) for _, y in points][:3] == [0.0, 55.0, 82.5]
    assert read(curve("none", [])).tags


def test_save_is_whole_or_nothing(tmp_path):
    out = save(page("x"), tmp_path / "new" / "page.html")
    assert out.read_text().endswith("</html>\n") and [p.name for p in out.parent.iterdir()] == ["page.html"]
    with pytest.raises(FileExistsError, match="is a folder; expected the name of a file for a page"):
        save(page("x"), tmp_path)


def test_answer_card_counts_labels_and_says_when_there_is_nothing():
    image = np.zeros((20, 30, 3), np.uint8)
    regions = tuple(Region(str(i), box=(i, 1, i + 5, 9), label="cat") for i in range(3))
    assert "cat ×3" in read(answer_card(image, "OD", "prompt", Parsed(regions=regions))).text
    assert "An empty answer." in read(answer_card(image, "OD", "prompt", Parsed())).text
    assert "Cut off" in read(answer_card(image, "OD", "prompt", Parsed(truncated=True))).text


def test_every_task_has_a_card_with_its_truth():
    pixels, sample = draw(2**31 + 3, objects=(3, 3), signs=1)
    asked = asks_of(sample)
    assert [ask.task for ask, _ in asked] == list(TASKS)
    section = answers_section(pixels, [(ask, truth, truth) for ask, truth in asked])
    text = read(section.body).text
    assert section.body.count("<figure") == 15 and text.count("truth: ") == 15
    for title in ("Object detection", "OCR with region", "Region to OCR", "Referring expression segmentation"):
        assert title in text
    assert asked[0][1].texts[0].text in text and sample.texts[2].text in text


def test_a_browser_runs_the_script_and_refuses_nothing(tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if not browser:
        pytest.skip("no browser")
    body = join([table(["n"], [[2], [10]]), cards([spoken("cat")], switches=True)])
    out = save(page("Seen", Section("One", body), Section("Two", paragraph("y"))), tmp_path / "page.html")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--user-data-dir={tmp_path}"]
    seen = subprocess.run([browser, *options, "--dump-dom", out.as_uri()], capture_output=True, text=True, timeout=120)
    assert 'class="number sorts"' in seen.stdout and "zoom-in" in seen.stdout  # page.js ran
    assert "CONSOLE" not in seen.stderr and "Content Security Policy" not in seen.stderr
