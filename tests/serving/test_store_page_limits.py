"""The store's page where it is hard: thousands of boxes on a picture, narrow windows, a store that is still read."""

import pytest

from florence2.engine.commands import import_labels
from florence2.formats import jsonl
from florence2.records import ImageRef, Region, Sample, Source
from tests.engine.doubles import folder_of
from tests.serving import browser
from tests.serving.test_store_page import Page
from tests.serving.test_store_routes import Client

BOXES = 3_000
ARROW_DOWN = "\ue015"


def make_store(tmp):
    """Two pictures, the first of them full of boxes."""
    source, samples = Source("specialist", "yolox", "2"), []
    for n, path in enumerate(sorted(folder_of(tmp, 2).glob("*.png"))):
        boxes = [(x, y, x + 0.5, y + 0.5) for x in range(39) for y in range(29)] * 3
        regions = tuple(
            Region(f"r{k}", box=box, label=f"c{k % 40}", label_space="t", score=0.5, source=source)
            for k, box in enumerate(boxes[: BOXES if n == 0 else 3])
        )
        samples.append(Sample(f"s{n}", ImageRef(path.name, str(path)), regions=regions))
    jsonl.write(samples, tmp / "in")
    return import_labels(tmp / "in", tmp / "store", workers=0)


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with Client(tmp_path_factory.mktemp("limits"), make=make_store) as made:
        yield made


@pytest.mark.parametrize(("wide", "high"), [(800, 700), (390, 844)])
def test_a_narrow_window_shows_pictures_and_what_is_done_to_them(client, wide, high):
    with browser.opened(max(wide, 500), high) as driver:
        size = {"width": wide, "height": high, "deviceScaleFactor": 1, "mobile": wide < 500}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        page = Page(client, driver)
        page.open()
        page.wait("document.getElementById('grid').clientHeight > 0.5 * innerHeight")
        page.wait("document.getElementById('cell-0').getBoundingClientRect().height > 100")
        driver.execute_script("document.getElementById('cell-1').click()")
        page.shown(client.ids()[1])
        page.wait("document.getElementById('stage').clientHeight > 0.4 * innerHeight")
        assert driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")


def test_thousands_of_boxes_are_walked_through_and_accepted(client):
    with browser.opened(1300, 850) as driver:
        page = Page(client, driver)
        page.open()
        driver.execute_script("localStorage.setItem('florence2.person', 'Ada')")
        page.enter(0)
        page.wait(f"document.querySelectorAll('#annotations li').length === {BOXES}")
        assert driver.execute_script("return document.documentElement.scrollHeight <= innerHeight")
        page.keys(ARROW_DOWN)
        page.wait("document.querySelectorAll('#stage .label').length === 1")  # of the chosen one alone
        driver.execute_script(
            "for (const e of document.querySelectorAll('#annotations li, #stage [data-id]')) e.before_ = true"
        )
        page.keys(ARROW_DOWN)
        page.wait("document.querySelector('#annotations li:nth-child(2)').ariaSelected === 'true'")
        made = "[...document.querySelectorAll('#annotations li, #stage [data-id]')].filter(e => !e.before_).length"
        assert driver.execute_script(f"return {made}") == 4  # what was chosen and what is, in the list and drawn
        order = "[...document.querySelectorAll('#annotations li')].map(e => e.dataset.key)"
        assert driver.execute_script(f"return new Set({order}).size") == BOXES
        page.keys("x", "a")
        page.shown(client.ids()[1])
        page.saved()
        assert page.text("notices") == ""
        found = client.picture(client.ids()[0])
        assert found["review"] == "complete"
        assert [a["status"] for a in found["annotations"]].count("kept") == BOXES - 1
        assert all(a["history"][-1]["person"] == "Ada" for a in found["annotations"])
        assert browser.complaints(driver) == []


def test_a_store_that_is_still_read_is_waited_for_without_a_complaint(client):
    """Every way in that asks too early: the server says so, and the page asks again."""
    refuse = """
        const real = window.fetch; let left = 6;
        window.fetch = (...asked) => left-- > 0 && String(asked[0]).includes('/v1/store')
          ? Promise.resolve(new Response('{"error": {"type": "not_ready", "message": "the store is being read"}}',
              {status: 503}))
          : real(...asked);
    """
    with browser.opened(1300, 850) as driver:
        driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": refuse})
        page = Page(client, driver)
        page.open()
        page.wait("document.getElementById('count').textContent === '2 pictures'")
        assert page.text("notices") == ""
