"""Texts, quads and polygons changed on the store's page in headless Chromium, undone and done again, and exported."""

import pytest

from florence2.engine.commands import import_labels
from florence2.engine.export import export_labels
from florence2.formats import coco, jsonl
from florence2.records import ImageRef, Region, Sample, Source, Text
from florence2.store import Store
from tests.engine.doubles import folder_of
from tests.serving import browser
from tests.serving.test_store_page import Page
from tests.serving.test_store_routes import Client

MODEL = Source("specialist", "reader", "1")
QUAD, OUTLINE = (2.0, 4.0, 16.0, 4.0, 16.0, 10.0, 2.0, 10.0), (22.0, 5.0, 36.0, 5.0, 30.0, 25.0)
CAPTION, EDITED = "a <b>cat</b> & a dog", 'two cats, "tab\\n" and ٣ שלום 🙂'


def make_store(tmp):
    """Four pictures with a caption, a word and an outlined thing each."""
    samples = []
    for n, path in enumerate(sorted(folder_of(tmp, 4).glob("*.png"))):
        regions = (
            Region("word", kind="text", quad=QUAD, label="STOP", score=0.9, source=MODEL),
            Region("thing", polygons=(OUTLINE,), label="kite", label_space="things", score=0.8, source=MODEL),
        )
        samples.append(Sample(f"s{n}", ImageRef(path.name, str(path)), (Text("t", CAPTION, source=MODEL),), regions))
    jsonl.write(samples, tmp / "in")
    return import_labels(tmp / "in", tmp / "store", workers=0)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with browser.opened(1300, 850) as driver, Client(tmp_path_factory.mktemp("edits"), make=make_store) as client:
        made = Page(client, driver)
        made.open()
        driver.execute_script("localStorage.setItem('florence2.person', 'Ada')")
        yield made


def choose(page, words):
    """Choose the line of the list that holds these words."""
    page.wait(f"[...document.querySelectorAll('#annotations li')].some(e => e.textContent.includes('{words}'))")
    next(row for row in page.driver.find_elements("css selector", "#annotations li") if words in row.text).click()
    page.wait(f"document.querySelector('#annotations [aria-selected=true]')?.textContent.includes('{words}')")


def write(page, text):
    """Put a text in the dialog's field and take it."""
    page.wait("document.getElementById('dialog').open")
    page.driver.execute_script("document.getElementById('text-input').value = arguments[0]", text)
    page.keys("\ue007")


def held(page, place, tmp_path, name):
    """A picture's caption, word with its quad, outline with its label: as the store holds and exports them."""
    store = Store(page.client.store.root)

    def of(sample):
        words = [(r.label, tuple(map(round, r.quad))) for r in sample.regions if r.kind == "text"]
        things = [(r.label, [tuple(map(round, p)) for p in r.polygons]) for r in sample.regions if r.kind != "text"]
        return [text.text for text in sample.texts], words, things

    found = of(list(store.samples())[place])
    out = tmp_path / name
    export_labels(store, "jsonl", out / "lines")
    assert of(list(jsonl.read(out / "lines"))[place]) == found
    export_labels(store, "coco", out / "coco")
    outlines = list(coco.read(out / "coco" / "instances.json"))[place].regions
    assert [(r.label, [tuple(map(round, p)) for p in r.polygons]) for r in outlines if r.kind != "text"] == found[2]
    assert store.verify() == []
    return found


BEFORE = ([CAPTION], [("STOP", tuple(map(round, QUAD)))], [("kite", [tuple(map(round, OUTLINE))])])


def caption(page):
    choose(page, "a <b>cat")
    page.keys("e")
    write(page, EDITED)
    return [EDITED], *BEFORE[1:]


def word(page):
    choose(page, "STOP")
    page.keys("e")
    write(page, "ШOP ✋")
    return BEFORE[0], [("ШOP ✋", BEFORE[1][0][1])], BEFORE[2]


def corner_of_a_quad(page):
    choose(page, "STOP")
    page.drag((16, 10), (19, 13))
    return BEFORE[0], [("STOP", (2, 4, 16, 4, 19, 13, 2, 10))], BEFORE[2]


def corner_of_a_polygon(page):
    choose(page, "kite")
    page.drag((30, 25), (26, 28))
    return *BEFORE[:2], [("kite", [(22, 5, 36, 5, 26, 28)])]


@pytest.mark.parametrize("change", [caption, word, corner_of_a_quad, corner_of_a_polygon])
def test_what_is_changed_is_exported_undone_and_done_again(page, change, tmp_path):
    place = [caption, word, corner_of_a_quad, corner_of_a_polygon].index(change)
    page.open()
    page.enter(place)
    assert held(page, place, tmp_path, "before") == BEFORE
    after = change(page)
    page.wait("[...document.querySelectorAll('#annotations .by')].some(e => e.textContent === 'Ada')")
    page.saved()
    assert held(page, place, tmp_path, "after") == after
    for key, expected in (("u", BEFORE), ("U", after), ("u", BEFORE), ("U", after)):
        page.keys(key)
        by = "some" if expected == after else "every"
        sign = "===" if expected == after else "!=="
        page.wait(f"[...document.querySelectorAll('#annotations .by')].{by}(e => e.textContent {sign} 'Ada')")
        page.saved()
        assert held(page, place, tmp_path, f"{key} {len(list(tmp_path.iterdir()))}") == expected
    assert browser.complaints(page.driver) == []
