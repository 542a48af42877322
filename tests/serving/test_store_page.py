"""The page to browse and correct a store, in headless Chromium: a whole review, and its export."""

import itertools
import json
import time

import pytest

from florence2.engine.export import export_labels
from florence2.formats import coco
from florence2.store import Store
from tests.serving import browser
from tests.serving.test_store_routes import Client, by_label


class Page:
    """The page in a browser; what a person does there."""

    def __init__(self, client, driver):
        self.client, self.driver = client, driver

    def open(self, query="?order=store"):
        self.driver.get(f"{self.client.server.url}/store{query}")
        self.wait("document.body.dataset.ready && document.querySelectorAll('.thumb img').length")

    def wait(self, expression, seconds=30):
        """The value of an expression of JavaScript, once it has one; else an error that says what the page shows."""
        from selenium.common.exceptions import TimeoutException
        from selenium.webdriver.support.ui import WebDriverWait

        try:
            return WebDriverWait(self.driver, seconds, 0.05).until(lambda d: d.execute_script(f"return {expression}"))
        except TimeoutException:
            shown = self.driver.execute_script("return document.body.innerText")[:3000]
            raise AssertionError(f"never: {expression}\n{browser.complaints(self.driver)}\n{shown}") from None

    def keys(self, *keys):
        from selenium.webdriver.common.action_chains import ActionChains

        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()

    def text(self, name):
        return self.driver.find_element("id", name).text

    def saved(self):
        self.wait("document.getElementById('saving').textContent === 'saved'")

    def enter(self, place=0):
        """Open a picture of the grid."""
        self.driver.execute_script(f"document.getElementById('cell-{place}').click()")
        return self.shown(self.client.ids()[place])

    def shown(self, image_id):
        self.wait(f"document.body.dataset.picture === {json.dumps(image_id)}")
        return image_id

    def rows(self):
        """What the list of annotations says, line by line."""
        return [row.text.replace("\n", " ") for row in self.driver.find_elements("css selector", "#annotations li")]

    def drag(self, start, end, press=""):
        """Drag from one place of the picture to another, both in its pixels."""
        from selenium.webdriver.common.action_chains import ActionChains

        stage = self.driver.find_element("css selector", "#stage svg")
        left, top, wide, high = self.driver.execute_script(
            "const r = arguments[0].getBoundingClientRect(); return [r.left, r.top, r.width, r.height]", stage
        )
        (x1, y1), (x2, y2) = ((round(left + x * wide / 40), round(top + y * high / 30)) for x, y in (start, end))
        chain = ActionChains(self.driver, duration=20)
        chain.w3c_actions.pointer_action.move_to_location(x1, y1)
        chain.w3c_actions.pointer_action.pointer_down()
        if (x1, y1) != (x2, y2):
            chain.w3c_actions.pointer_action.move_to_location((x1 + x2) // 2, (y1 + y2) // 2)
            chain.w3c_actions.pointer_action.move_to_location(x2, y2)
        chain.w3c_actions.pointer_action.pointer_up()
        chain.perform()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with browser.opened(1300, 850) as driver, Client(tmp_path_factory.mktemp("page")) as client:
        made = Page(client, driver)
        made.open()
        yield made


@pytest.fixture(autouse=True)
def afresh(page):
    page.open()
    page.driver.execute_script("localStorage.setItem('florence2.person', 'Ada')")
    page.open()


def expected_of(store):
    """Per picture (label, box) of what the store keeps."""
    return {
        sample.image.id: sorted((r.label, tuple(round(v) for v in r.box)) for r in sample.regions if r.box)
        for sample in store.samples()
    }


def test_a_whole_review_find_correct_export(page, tmp_path):
    """Weak dogs are found, rejected, relabelled, drawn, moved; pictures accepted; a step undone; the export says so."""
    from selenium.webdriver.common.keys import Keys

    page.driver.execute_script("localStorage.removeItem('florence2.person')")
    page.open("?order=store&label=dog&max_score=0.35")  # the first four pictures
    expected = expected_of(page.client.store)
    ids = page.client.ids()
    assert page.text("count") == "4 pictures"
    first = page.enter(0)
    assert first == ids[0] and [row.split()[0] for row in page.rows()[:2]] == ["cat", "dog"]

    page.keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN, "x")  # the dog is none; who says so is asked once
    page.wait("document.getElementById('dialog').open")
    page.driver.find_element("id", "person-input").send_keys("Ada Lovelace", Keys.ENTER)
    page.wait("document.querySelectorAll('#annotations li').length === 2")
    expected[first].remove(("dog", (11, 2, 19, 20)))
    page.keys("a")  # one key: accepted, the next picture
    page.shown(ids[1])

    page.keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN, "1")  # relabelled: the first label is cat
    expected[ids[1]].remove(("dog", (11, 2, 19, 20)))
    expected[ids[1]].append(("cat", (11, 2, 19, 20)))
    page.wait("[...document.querySelectorAll('#annotations .name')].filter(e => e.textContent === 'cat').length === 2")
    page.keys("a")
    page.shown(ids[2])

    page.drag((22, 4), (38, 26))  # a new box: one drag and one key
    page.keys("2")
    expected[ids[2]].append(("dog", (22, 4, 38, 26)))
    page.wait("document.querySelectorAll('#annotations li').length === 4")
    page.keys("l")  # any other label: letters and Enter
    page.wait("document.getElementById('dialog').open")
    page.keys("h", "e", "n", Keys.ENTER)
    expected[ids[2]].remove(("dog", (22, 4, 38, 26)))
    expected[ids[2]].append(("hen", (22, 4, 38, 26)))
    page.wait("[...document.querySelectorAll('#annotations .name')].some(e => e.textContent === 'hen')")
    page.drag((30, 10), (29, 9))  # moved as a whole
    expected[ids[2]].remove(("hen", (22, 4, 38, 26)))
    expected[ids[2]].append(("hen", (21, 3, 37, 25)))
    page.keys("a")
    page.shown(ids[3])

    page.keys(Keys.ARROW_DOWN, "x", "x")  # both are gone ...
    page.wait("document.querySelectorAll('#annotations li').length === 1")
    page.keys("u")  # ... but the last was a slip
    page.wait("document.querySelectorAll('#annotations li').length === 2")
    expected[ids[3]].remove(("cat", (1, 2, 9, 20)))
    page.saved()

    store = Store(page.client.store.root)
    assert expected_of(store) == {image: sorted(found) for image, found in expected.items()}
    export_labels(store, "coco", tmp_path / "out")
    exported = {
        sample.image.id.rpartition("/")[2]: sorted((r.label, tuple(round(v) for v in r.box)) for r in sample.regions)
        for sample in coco.read(tmp_path / "out" / "instances.json")
    }
    names = {sample.image.id: sample.image.uri.rpartition("/")[2] for sample in store.samples()}
    assert exported == {names[image]: sorted(found) for image, found in expected.items()}
    people = {o.kind: store.run(o.run_id).get("person") for o in store.snapshot().operators if o.kind == "human"}
    assert people == {"human": "Ada Lovelace"}
    assert page.client.ids(review="complete") == ids[:3] and store.verify() == []
    page.driver.execute_script("history.back()")
    page.wait("!document.getElementById('browse').hidden && document.querySelectorAll('.cell.complete').length === 3")
    assert browser.complaints(page.driver) == []


def test_what_a_model_says_is_text_and_never_markup(page):
    page.enter(4)
    assert any("<img src=x onerror=alert(1)>" in row for row in page.rows())
    assert page.driver.execute_script("return document.querySelectorAll('#annotations img, #detail img').length") == 0


def test_only_this_server_is_asked_and_only_described_routes(page):
    import re
    from urllib.parse import urlsplit

    import httpx

    browser.requested(page.driver)
    page.enter(5)
    page.keys("y")
    time.sleep(0.5)
    described = httpx.get(page.client.server.url + "/openapi.json").json()["paths"]
    patterns = [re.compile(re.sub(r"\{\w+\}", "[^/]+", path) + r"\Z") for path in described]
    asked = [(method, urlsplit(url)) for method, url, _ in browser.requested(page.driver) if url.startswith("http")]
    assert {url.netloc for _, url in asked} <= {f"127.0.0.1:{page.client.server.port}"}
    assert all(any(pattern.match(url.path) for pattern in patterns) for _, url in asked), asked


def test_completeness_for_some_labels(page):
    page.enter(6)
    page.keys("c")
    page.wait("document.getElementById('dialog').open")
    page.driver.find_element("id", "complete-0").click()
    page.driver.find_element("id", "save-complete").click()
    page.wait("document.getElementById('coverage').textContent.includes('Complete for cat')")
    page.saved()
    assert page.client.picture(page.client.ids()[6])["complete"] == ["cat"]


def test_a_polygon_and_a_corner_of_it(page):
    from selenium.webdriver.common.keys import Keys

    image_id = page.enter(6)
    page.keys("g")
    for place in ((22, 5), (36, 5), (36, 25)):
        page.drag(place, place)
    page.keys(Keys.ENTER, "2")
    page.wait("[...document.querySelectorAll('#annotations .name')].filter(e => e.textContent === 'dog').length === 2")
    page.keys("b")
    page.drag((36, 25), (30, 28))  # the last corner
    page.wait("document.getElementById('saving').textContent === 'saved'")
    page.saved()
    time.sleep(0.3)
    found = [a for a in page.client.picture(image_id)["annotations"] if a["polygons"] and a["status"] == "kept"]
    assert [round(v) for v in found[0]["polygons"][0]] == [22, 5, 36, 5, 30, 28]


def test_who_is_late_is_told_and_sees_what_the_other_did(page):
    from selenium.webdriver.common.keys import Keys

    image_id = page.enter(7)
    cat = by_label(page.client.picture(image_id))["cat"]
    bobs = [{"ann_id": cat["ann_id"], "verdict": "changed", "label": "lion"}]
    assert page.client.correct(image_id, "Bob", changes=bobs).status_code == 200
    page.keys(Keys.ARROW_DOWN, "x")
    assert "replaced" in page.wait("document.getElementById('notices').textContent") or page.text("notices")
    page.wait("[...document.querySelectorAll('#annotations .name')].some(e => e.textContent === 'lion')")


def test_the_next_picture_is_there_before_it_is_asked_for(page):
    from selenium.webdriver.common.keys import Keys

    page.enter(0)
    ids = page.client.ids()
    for before, after in itertools.pairwise(ids[:4]):
        page.shown(before)
        page.wait("performance.now() > 0")
        time.sleep(0.6)
        browser.requested(page.driver)
        page.keys(Keys.ARROW_RIGHT)
        page.shown(after)
        asked = [url for _, url, _ in browser.requested(page.driver) if after in url]
        assert asked == [], "was fetched ahead"


def test_a_link_to_a_picture_is_followed(page):
    """Opened afresh, reloaded under a filter, gone back from and forward to; and where the filter leaves it out."""
    ids, driver = page.client.ids(), page.driver
    browser.complaints(driver)  # of the tests before
    driver.get("about:blank")
    driver.get(f"{page.client.server.url}/store?order=store#{ids[3]}")
    page.shown(ids[3])
    assert "4 of 8" in page.text("picture-heading")
    driver.back()
    page.wait("!document.getElementById('browse').hidden && !location.hash")
    driver.forward()
    page.wait(f"!document.getElementById('correct').hidden && location.hash === '#{ids[3]}'")
    page.keys("\ue014")  # the next picture
    page.shown(ids[4])
    driver.refresh()
    page.shown(ids[4])
    assert "5 of 8" in page.text("picture-heading")

    page.open("?order=store&label=dog&min_score=0.45&max_score=0.65")  # the sixth and the seventh
    shown = page.client.ids(label="dog", min_score=0.45, max_score=0.65)
    page.driver.execute_script("document.getElementById('cell-1').click()")
    page.shown(shown[1])
    driver.refresh()
    page.shown(shown[1])
    assert f"2 of {len(shown)}" in page.text("picture-heading") and "label=dog" in driver.current_url
    driver.back()
    page.wait("!document.getElementById('browse').hidden && !location.hash")
    assert "label=dog" in driver.current_url and page.text("count") == f"{len(shown)} pictures"

    driver.execute_script(f"location.hash = '{ids[0]}'")  # as one who pastes a link
    page.shown(ids[0])
    assert "the filter was taken away" in page.text("notices") and "label=dog" not in driver.current_url
    assert "1 of 8" in page.text("picture-heading")
    driver.back()
    page.wait("!document.getElementById('browse').hidden && !location.hash")
    page.wait("document.getElementById('count').textContent === '8 pictures'")
    driver.execute_script("location.hash = 'nothing'")
    page.wait("document.getElementById('notices').textContent.includes('no picture')")
    page.wait("!document.getElementById('browse').hidden && !location.hash")
    assert [line for line in browser.complaints(driver) if "404" not in line] == []


def test_it_is_a_page_for_keys_and_for_readers_of_the_screen(page):
    from selenium.webdriver.common.keys import Keys

    page.driver.find_element("id", "grid").send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    grid = page.driver.find_element("id", "grid")
    assert grid.get_attribute("aria-activedescendant") == "cell-2"
    assert page.driver.find_element("id", "cell-2").get_attribute("aria-selected") == "true"
    grid.send_keys(Keys.ENTER)
    page.shown(page.client.ids()[2])
    page.wait("document.getElementById('live').textContent.includes('3 of 8')")
    page.keys("?")
    page.wait("document.getElementById('dialog').open && document.querySelectorAll('#dialog kbd').length > 20")
    page.keys(Keys.ESCAPE, Keys.ESCAPE)
    page.wait("!document.getElementById('browse').hidden")
    unnamed = page.driver.execute_script(
        "return [...document.querySelectorAll('button, input, select, [role=listbox]')].filter(e =>"
        " !(e.textContent.trim() || e.ariaLabel || e.labels?.length || e.getAttribute('aria-labelledby'))).length"
    )
    assert unnamed == 0
