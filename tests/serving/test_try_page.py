"""The page to try the model, in headless Chromium; the routes that it comes from."""

import asyncio
import base64
import io
import json
import os
import re
import subprocess
import sys
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image

from florence2 import geometry
from florence2.records import Ask
from florence2.serving.pages import try_page
from florence2.serving.pages.static_files import FOLDER, files
from florence2.serving.settings import Settings
from tests.serving import browser
from tests.serving.running import ROOT, RunningServer, call
from tests.serving.test_predict_route import assert_same


def test_the_page_and_its_files_are_sent_under_a_strict_policy(server):
    answer = httpx.get(server.url + "/")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/html")
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'" and policy["script-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in answer.headers["content-security-policy"] and "http" not in str(policy)
    html = answer.text
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|\bstyle=|<style", html), (
        "inline code, which the policy forbids"
    )
    for name in re.findall(r"/static/([\w.-]+)", html):
        assert httpx.get(f"{server.url}/static/{name}").content == (FOLDER / name).read_bytes()


def test_no_file_of_the_pages_names_another_host():
    for path in FOLDER.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"(https?:)?//[a-z0-9-]+\.[a-z]", text), path.name
        for module in re.findall(r"""from\s+["'](.*?)["']""", text):
            assert module.removeprefix("./") in files(), (path.name, module)


@pytest.mark.parametrize("name", ["nothing.js", "try.html", "..%2Fstatic_files.py", "%2e%2e", ".js"])
def test_only_the_files_of_the_pages_are_sent(server, name):
    assert httpx.get(f"{server.url}/static/{name}").status_code == 404


def test_samples_are_drawn_by_number(server):
    first = httpx.get(server.url + "/sample/5")
    assert first.headers["content-type"] == "image/png" and first.content[:4] == b"\x89PNG"
    assert httpx.get(server.url + "/sample/5").content == first.content != httpx.get(server.url + "/sample/6").content
    assert httpx.get(server.url + "/sample/1000000").json()["error"]["field"] == "number"


# ---- in a browser ----

REGION = (100.0, 240.0, 220.0, 345.0)
UNTRUSTED = "<script>window.owned = 1</script><img src=x onerror='window.owned = 1'>"


@pytest.fixture(scope="module")
def window(server):
    """A browser; the tests below open the page in it anew."""
    with browser.opened() as driver:
        yield driver


@pytest.fixture
def page(window, server, scene, tmp_path):
    """The page with a picture chosen, nothing asked yet."""
    file = tmp_path / "a 'picture'.png"
    file.write_bytes(scene)
    return opened(window, server.url, file)


def opened(driver, url, file=None):
    driver.get(url + "/")
    wait(driver, "document.body.dataset.ready && document.querySelector('.picture img').src")
    if file is not None:
        driver.find_element("id", "file").send_keys(str(file))
        wait(driver, "document.getElementById('picture-name').textContent.startsWith(arguments[0])", file.name)
    browser.requested(driver), browser.complaints(driver)  # those of the page itself
    return driver


def wait(driver, expression, *arguments, seconds=30):
    """The value of an expression of JavaScript, once it has one."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(driver, seconds, 0.05).until(lambda d: d.execute_script(f"return {expression}", *arguments))


def texts(driver, selector):
    return [element.text for element in driver.find_elements("css selector", selector)]


def pick(driver, *tasks):
    """These tasks and no others."""
    for box in driver.find_elements("css selector", "#tasks input"):
        if box.is_selected() != (box.get_attribute("value") in tasks):
            box.click()


def ask(driver):
    """Press the button: what was sent and what came, where an answer came."""
    driver.execute_script(
        """window.exchanges = [];
        if (!window.plainFetch) {
          window.plainFetch = window.fetch;
          window.fetch = async (url, given) => {
            const response = await window.plainFetch(url, given);
            if (given?.body) window.exchanges.push([given.body, await response.clone().text()]);
            return response;
          };
        }"""
    )
    driver.find_element("id", "run").click()
    body, answer = wait(driver, "document.getElementById('stop').hidden && window.exchanges[0]")
    return json.loads(body), json.loads(answer)


def pretend(driver, answers):
    """The server's next answers are these."""
    driver.execute_script(
        "window.fetch = async () => new Response(arguments[0], {status: 200})", json.dumps({"answers": answers})
    )
    driver.find_element("id", "run").click()
    wait(driver, "document.getElementById('stop').hidden && document.querySelector('[role=tab]')")


def test_several_tasks_are_asked_at_once_and_their_answers_drawn(page, server, nano, scene):
    sent, got = ask(page)
    assert base64.b64decode(sent.pop("image")) == scene and sent == {"asks": [{"task": "OD"}, {"task": "CAPTION"}]}
    for answer, task in zip(got["answers"], ("<OD>", "<CAPTION>"), strict=True):
        assert_same(answer, nano.predict(scene, task))
    regions = nano.predict(scene, "<OD>").regions
    assert len(page.find_elements("css selector", "svg .region")) == len(regions)
    assert sorted(texts(page, "svg .label text")) == sorted(f"{r.label} {r.score:.2f}" for r in regions)
    x, y, right, bottom = regions[0].box
    drawn = page.find_element("css selector", f"[data-id={regions[0].id}] rect.line")
    assert [float(drawn.get_attribute(name)) for name in ("x", "y", "width", "height")] == pytest.approx(
        [x, y, right - x, bottom - y]
    )
    page.find_element("id", "tab-1").click()
    assert nano.predict(scene, "<CAPTION>").texts[0].text in texts(page, "blockquote")[0]
    assert not page.find_elements("css selector", "svg .region")
    assert wait(page, "document.getElementById('live').textContent") == f"OD: {len(regions)} regions; CAPTION: text"


def test_the_page_asks_this_server_alone_and_only_what_is_described(page, server):
    page.get(server.url + "/")
    wait(page, "document.body.dataset.ready && document.querySelector('.picture img').src")
    ask(page)
    page.find_element("id", "sample").click()
    wait(page, "document.getElementById('answers').textContent.includes('Nothing')")
    sent = [request for request in browser.requested(page) if not request[1].startswith(("data:", "blob:"))]
    assert {urlsplit(url).netloc for _, url, _ in sent} == {f"127.0.0.1:{server.port}"}
    described = httpx.get(server.url + "/openapi.json").json()["paths"]
    routes = {method.upper(): [] for methods in described.values() for method in methods}
    for path, methods in described.items():
        for method in methods:
            routes[method.upper()].append(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path)))
    for method, url, status in sent:
        assert any(re.fullmatch(route, urlsplit(url).path) for route in routes[method]), (method, url)
        assert status is None or status < 400, (url, status)
    assert {"/", "/v1/predict", "/v1/tasks", "/static/overlay.js"} <= {urlsplit(url).path for _, url, _ in sent}
    assert browser.complaints(page) == []


def test_a_region_at_the_edge_is_drawn_from_beside_the_picture(page):
    from selenium.webdriver import ActionChains

    pick(page, "REGION_TO_CATEGORY")
    page.find_element("id", "draw").click()
    stage, x, y, scale = page.execute_script(
        """const a = document.querySelector('.picture').getBoundingClientRect();
        return [document.getElementById('stage').getBoundingClientRect().left, a.left, a.top, a.width / 384]"""
    )
    assert x - stage > 10  # there is room beside it
    actions = ActionChains(page)
    actions.w3c_actions.pointer_action.move_to_location(round(x - 8), round(y + 50 * scale))
    actions.w3c_actions.pointer_action.pointer_down()
    actions.w3c_actions.pointer_action.move_to_location(round(x + 100 * scale), round(y + 90 * scale))
    actions.w3c_actions.pointer_action.pointer_up()
    actions.perform()
    fields = page.find_elements("css selector", "[data-field=region]")
    drawn = [float(field.get_attribute("value")) for field in fields]
    assert drawn == pytest.approx([0, 50, 100, 90], abs=1.5 / scale) and drawn[0] == 0


@pytest.mark.parametrize("size", [(20_000, 10), (3, 5000)])
def test_a_picture_like_a_thread_is_seen(window, server, tmp_path, size):
    Image.new("L", size, 9).save(tmp_path / "thread.png")
    opened(window, server.url, tmp_path / "thread.png")
    shown = window.find_element("css selector", ".picture").rect
    assert min(shown["width"], shown["height"]) >= 1


def test_a_region_is_drawn_with_the_mouse_and_typed_with_keys(page, nano, scene):
    from selenium.webdriver import ActionChains, Keys

    pick(page, "REGION_TO_CATEGORY", "REGION_TO_DESCRIPTION")
    page.find_element("tag name", "body").send_keys("r")
    assert page.find_element("id", "draw").get_attribute("aria-pressed") == "true"
    x, y, scale = page.execute_script(
        "const a = document.querySelector('.picture').getBoundingClientRect(); return [a.left, a.top, a.width / 384]"
    )
    corners = [(round(x + REGION[n] * scale), round(y + REGION[n + 1] * scale)) for n in (0, 2)]
    actions = ActionChains(page)
    actions.w3c_actions.pointer_action.move_to_location(*corners[0])
    actions.w3c_actions.pointer_action.pointer_down()
    actions.w3c_actions.pointer_action.move_to_location(*corners[1])
    actions.w3c_actions.pointer_action.pointer_up()
    actions.perform()
    fields = page.find_elements("css selector", "[data-field=region]")
    drawn = [float(field.get_attribute("value")) for field in fields]
    assert drawn == pytest.approx(REGION, abs=1.5 / scale)
    assert page.find_element("id", "draw").get_attribute("aria-pressed") == "false"
    sent, got = ask(page)
    assert [one["region"] for one in sent["asks"]] == [drawn, drawn]
    for answer, task in zip(got["answers"], ("<REGION_TO_CATEGORY>", "<REGION_TO_DESCRIPTION>"), strict=True):
        assert_same(answer, nano.predict(scene, Ask(task, region=tuple(drawn))))
    for field, value in zip(page.find_elements("css selector", "[data-field=region]"), REGION):
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(f"{value:g}")
    mark = page.find_element("css selector", "svg .mark .line")
    assert [float(mark.get_attribute(n)) for n in ("x", "y", "width", "height")] == [100, 240, 120, 105]
    assert ask(page)[0]["asks"][0]["region"] == list(REGION)


def test_each_task_has_its_own_text_and_labels_and_predicts_options_go_along(page, nano, scene):
    pick(page, "OD", "OPEN_VOCABULARY_DETECTION", "REFERRING_EXPRESSION_SEGMENTATION")
    label = nano.predict(scene, "<OD>").regions[0].label
    typed = {("OD", "labels"): f"{label}, cat", ("OPEN_VOCABULARY_DETECTION", "text"): label}
    typed["REFERRING_EXPRESSION_SEGMENTATION", "text"] = f"the {label}"
    for (task, field), text in typed.items():
        page.find_element("css selector", f"[data-task={task}][data-field={field}]").send_keys(text)
    page.find_element("css selector", "#options summary").click()
    options = {"min_score": 0.01, "num_beams": 2, "max_new_tokens": 40, "margin": 0.5}
    for name, value in options.items():
        page.find_element("name", name).send_keys(str(value))
    page.find_element("css selector", "[name=filters][value=nms]").click()
    page.find_element("name", "each_class").click()
    sent, got = ask(page)
    del sent["image"]
    asks = [
        Ask("<OD>", labels=(label, "cat")),
        Ask("<REFERRING_EXPRESSION_SEGMENTATION>", text=f"the {label}"),
        Ask("<OPEN_VOCABULARY_DETECTION>", text=label),
    ]
    assert sent["asks"][0] == {"task": "OD", "labels": [label, "cat"]} and sent["filters"] == ["nms"]
    options["each_class"] = False
    assert {name: sent[name] for name in options} == options
    for answer, alone in zip(got["answers"], nano.predict(scene, asks, filters=["nms"], **options), strict=True):
        assert_same(answer, alone)


def test_a_score_and_labels_and_items_are_filtered_without_asking_again(page, nano, scene):
    ask(page)
    regions = nano.predict(scene, "<OD>").regions
    between = sorted(region.score for region in regions)[1] - 1e-3
    browser.requested(page)
    slider = "const s = document.getElementById('least'); s.value = arguments[0]; s.dispatchEvent(new Event('input'))"
    page.execute_script(slider, f"{between:.2f}")
    least = float(page.find_element("css selector", "output").text)
    shown = {region.id for region in regions if region.score >= least}
    assert 0 < len(shown) < len(regions)
    drawn = [group.get_attribute("data-id") for group in page.find_elements("css selector", "svg .region")]
    assert set(drawn) == shown and texts(page, ".filter .small") == [f"{len(shown)} of {len(regions)} shown"]
    page.execute_script(slider, "0")
    row = page.find_element("css selector", f"li[data-item={regions[0].id}] input")
    row.send_keys(" ")
    assert not page.find_elements("css selector", f"svg [data-id={regions[0].id}]")
    row.send_keys(" ")
    toggles = page.find_elements("css selector", ".toggle")
    labels = list(dict.fromkeys(region.label for region in regions))
    assert [toggle.text.split()[0] for toggle in toggles] == labels and len(labels) > 1
    toggles[0].click()
    drawn = {group.get_attribute("data-id") for group in page.find_elements("css selector", "svg .region")}
    assert drawn == {region.id for region in regions if region.label != labels[0]}
    assert toggles[0].get_attribute("aria-pressed") == "false" and browser.requested(page) == []


def test_a_picture_is_enlarged_and_scrolled_to_what_is_chosen(page, server):
    own = httpx.get(server.url + "/v1/models").json()["data"][0]
    assert page.find_element("id", "model").text == " · ".join(own[name] for name in ("id", "device", "dtype"))
    assert page.find_element("id", "drawings").is_displayed() is own["drawings_only"] is True
    ask(page)
    before = page.find_element("css selector", ".picture").size["width"]
    for _ in range(4):
        page.find_element("id", "larger").click()
    assert page.find_element("css selector", ".picture").size["width"] == pytest.approx(before * 1.5**4, rel=0.01)
    middle = "(stage.scrollLeft + stage.clientWidth / 2) / stage.scrollWidth"
    middle = page.execute_script(f"const stage = document.querySelector('.stage'); return {middle}")
    assert middle == pytest.approx(0.5, abs=0.02)
    for row in page.find_elements("css selector", "li[data-item]"):
        row.find_element("css selector", ".name").click()
        number = row.get_attribute("data-item")
        ends = wait(
            page,
            """((stage, line) => [stage.left, stage.right, stage.top, stage.bottom, line.left, line.right, line.top,
            line.bottom])(document.querySelector('.stage').getBoundingClientRect(),
            document.querySelector(`.region[data-id=${arguments[0]}] .line`).getBoundingClientRect())""",
            number,
        )
        left, right, top, bottom, *line = ends
        assert left <= (line[0] + line[1]) / 2 <= right and top <= (line[2] + line[3]) / 2 <= bottom


def test_raw_tokens_lie_beside_the_parse_and_point_at_their_regions(page, nano, scene):
    pick(page, "OCR_WITH_REGION", "OD")
    ask(page)
    for tab, task in (("tab-0", "<OD>"), ("tab-1", "<OCR_WITH_REGION>")):
        page.find_element("id", tab).click()
        alone = nano.predict(scene, task)
        assert page.find_element("css selector", ".tokens").get_attribute("textContent") == alone.text
        for region in alone.regions:
            own = page.find_elements("css selector", f".tokens [data-item={region.id}]")
            assert len(own) == len(region.quad or region.box), region
        rows = page.find_elements("css selector", ".raw tbody tr td:first-child")
        assert [int(row.get_attribute("textContent")) for row in rows] == list(alone.token_ids)


def copied(page, button):
    """What a button puts on the clipboard."""
    page.execute_script(
        """window.copied = null;
        const clipboard = {writeText: async (text) => { window.copied = text; }};
        Object.defineProperty(navigator, 'clipboard', {configurable: true, value: clipboard});"""
    )
    page.find_element("id", button).click()
    return wait(page, "window.copied")


def ran(code, folder, **environment):
    """What a copied program prints, a JSON document a line."""
    given = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_what_is_copied_is_json_and_python_that_runs(page, server, tmp_path):
    pick(page, "OD", "CAPTION_TO_PHRASE_GROUNDING")
    text = 'A "sign" and a sün\\'
    page.find_element("css selector", "[data-task=CAPTION_TO_PHRASE_GROUNDING][data-field=text]").send_keys(text)
    _, got = ask(page)
    assert json.loads(copied(page, "copy-json")) == got
    assert ran(copied(page, "copy-python"), tmp_path) == got["answers"]
    page.execute_script(
        "const s = document.getElementById('least'); s.value = 0.5; s.dispatchEvent(new Event('input'));"
        "document.querySelector('.copies details').open = true"
    )
    least = [[r["id"] for r in answer["regions"] if r["score"] >= 0.5] for answer in got["answers"]]
    kinds = page.find_elements("css selector", ".copies option")
    for kind in kinds[:2]:
        kind.click()
        code = page.find_element("css selector", ".code").get_attribute("textContent")
        answers = ran(code, tmp_path)
        assert [[region["id"] for region in answer["regions"]] for answer in answers] == least, kind.text
        assert json.dumps(text, ensure_ascii=False) in code
    kinds[2].click()
    shell = page.find_element("css selector", ".code").get_attribute("textContent")
    done = subprocess.run(["bash", "-c", shell], cwd=tmp_path, capture_output=True, text=True)
    answers = json.loads(done.stdout)["answers"]
    assert [[region["id"] for region in answer["regions"]] for answer in answers] == least
    kinds[3].click()
    body = json.loads(page.find_element("css selector", ".code").get_attribute("textContent"))
    assert body["asks"][1]["text"] == text and body["min_score"] == 0.5


def test_python_for_a_drawn_sample_fetches_it(window, server, tmp_path):
    page = opened(window, server.url)
    _, got = ask(page)
    assert ran(copied(page, "copy-python"), tmp_path) == got["answers"]


def test_what_the_model_says_is_text_and_never_markup(page):
    region = {"id": "r0", "box": [10, 10, 90, 90], "label": UNTRUSTED, "score": 0.9}
    answer = {
        "task": "<OCR_WITH_REGION>", "prompt": UNTRUSTED, "size_wh": [384, 384], "truncated": True, "text": UNTRUSTED,
        "texts": [{"id": "t0", "text": UNTRUSTED}], "regions": [region, {**region, "id": "r1", "label": "x"}],
        "groundings": [{"phrase": UNTRUSTED, "region_ids": ["r0"]}], "token_ids": [1], "token_logprobs": [-1.0],
        "decisions": [{"item_id": "r9", "rule": UNTRUSTED, "reason": "overlap"}],
    }  # fmt: skip
    pretend(page, [answer, {**answer, "task": f"<{UNTRUSTED}>"}])
    for tab in (0, 1):
        page.find_element("id", f"tab-{tab}").click()
        shown = page.find_element("id", "answers").get_attribute("textContent")
        assert shown.count("<script>window.owned = 1</script>") >= 5
    assert not page.find_elements("css selector", "#answers script, #answers img, svg script, svg img")
    assert page.execute_script("return window.owned") is None and browser.complaints(page) == []


def test_errors_of_the_server_are_shown_as_they_are_at_their_field(page):
    pick(page, "OD", "REFERRING_EXPRESSION_SEGMENTATION")
    _, got = ask(page)
    message = page.find_element("css selector", "#error .error").text
    assert message.startswith("422 invalid_request") and got["error"]["message"] in message
    field = page.switch_to.active_element
    assert field.get_attribute("data-task") == "REFERRING_EXPRESSION_SEGMENTATION"
    assert field.get_attribute("aria-invalid") == "true"
    pick(page, "CAPTION")
    page.find_element("css selector", "#options summary").click()
    page.find_element("name", "max_new_tokens").send_keys("9999")
    _, got = ask(page)
    assert got["error"]["message"] in page.find_element("css selector", "#error .error").text
    assert page.switch_to.active_element.get_attribute("name") == "max_new_tokens"
    page.execute_script("window.fetch = async () => { throw new TypeError('gone') }")
    page.find_element("id", "run").click()
    assert "the server cannot be reached" in wait(page, "document.querySelector('#error .error').textContent")


def test_pictures_are_pasted_and_dropped_and_one_that_no_browser_shows_is_asked_about(page, nano, scene, tmp_path):
    give = """const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0)), moved = new DataTransfer();
        moved.items.add(new File([bytes], arguments[1], {type: 'image/png'}));
        document.body.dispatchEvent(arguments[1] === 'pasted.png'
          ? new ClipboardEvent('paste', {clipboardData: moved, bubbles: true})
          : new DragEvent('drop', {dataTransfer: moved, bubbles: true, cancelable: true}));"""
    for name in ("pasted.png", "dropped.png"):
        page.execute_script(give, base64.b64encode(scene).decode(), name)
        assert wait(page, "document.getElementById('picture-name').textContent.startsWith(arguments[0])", name)
    (tmp_path / "scan.tif").write_bytes(tiff(scene))
    page.find_element("id", "file").send_keys(str(tmp_path / "scan.tif"))
    wait(page, "document.getElementById('picture-name').textContent.includes('this browser cannot show it')")
    page.find_element("id", "draw").click()
    assert "size is not known" in page.find_element("css selector", "#error .error").text
    pick(page, "OD")
    _, got = ask(page)
    assert len(page.find_elements("css selector", "svg .region")) == len(got["answers"][0]["regions"]) > 0
    assert page.find_element("css selector", ".picture svg").get_dom_attribute("viewBox") == "0 0 384 384"
    assert "384 × 384" not in page.find_element("id", "error").text
    (tmp_path / "turned.jpg").write_bytes(turned(scene))
    page.find_element("id", "file").send_keys(str(tmp_path / "turned.jpg"))
    wait(page, "document.getElementById('picture-name').textContent == 'turned.jpg, 384 × 200 pixels'")
    assert ask(page)[1]["answers"][0]["size_wh"] == [384, 200] and not page.find_element("id", "error").text
    (tmp_path / "notes.txt").write_text("no picture")
    page.find_element("id", "file").send_keys(str(tmp_path / "notes.txt"))
    assert "expected a picture" in wait(page, "document.querySelector('#error .error')?.textContent")


def turned(data):
    """A JPEG of 200 x 384 pixels that its EXIF data turn upright."""
    out, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.open(io.BytesIO(data)).resize((200, 384)).save(out, "JPEG", exif=exif)
    return out.getvalue()


def tiff(data):
    out = io.BytesIO()
    Image.open(io.BytesIO(data)).save(out, "TIFF")
    return out.getvalue()


def test_a_new_region_or_picture_is_asked_about_at_once_where_that_is_wanted(page, scene, tmp_path):
    pick(page, "CAPTION")
    page.find_element("id", "at-once").click()
    (tmp_path / "other.png").write_bytes(scene)
    page.find_element("id", "file").send_keys(str(tmp_path / "other.png"))
    assert wait(page, "document.querySelector('[role=tab]')?.textContent") == "CAPTIONtext"


def test_all_is_done_by_keyboard_and_named_for_screen_readers(page):
    from selenium.webdriver import ActionChains, Keys

    page.find_element("tag name", "body").send_keys("?")
    assert page.find_element("id", "help").is_displayed()
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    ActionChains(page).key_down(Keys.CONTROL).send_keys(Keys.ENTER).key_up(Keys.CONTROL).perform()
    wait(page, "document.getElementById('stop').hidden && document.querySelector('[role=tab]')")
    page.find_element("id", "tab-0").send_keys(Keys.ARROW_RIGHT)
    assert page.switch_to.active_element.get_attribute("id") == "tab-1"
    page.switch_to.active_element.send_keys(Keys.HOME)
    first = page.find_element("css selector", "li[data-item] input")
    first.send_keys(Keys.ARROW_DOWN)
    assert page.switch_to.active_element == page.find_elements("css selector", "li[data-item] input")[1]
    assert page.find_elements("css selector", "svg .region.strong")
    pick(page, "OD", "CAPTION_TO_PHRASE_GROUNDING", "REGION_TO_OCR")
    page.find_element("css selector", "#options summary").click()
    tree = page.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    controls = ("button", "checkbox", "textbox", "spinbutton", "slider", "tab", "combobox", "tabpanel", "link")
    named = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in tree if not node["ignored"]]
    unnamed = [role for role, name in named if role in controls and not name.strip()]
    assert not unnamed and {"button", "checkbox", "textbox", "spinbutton", "slider", "tab"} <= {
        role for role, _ in named
    }
    assert ("spinbutton", "region x1, pixels") in named and ("slider", "Score at least") in named
    live = page.execute_script(
        "return [...document.querySelectorAll('[aria-live], [role=status], [role=alert]')].length"
    )
    assert live >= 4


CONTRASTS = """
const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
  .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
const ground = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const colour = rgb(getComputedStyle(at).backgroundColor);
    if ((colour[3] ?? 1) === 1) return colour;
  }
  return [255, 255, 255];
};
const found = [];
for (const element of document.querySelectorAll('body *:not(svg *)')) {
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  if (!own || !element.checkVisibility() || element.matches(':disabled, .out-of-sight, .below, .below *')) continue;
  const [a, b] = [light(rgb(getComputedStyle(element).color)), light(ground(element))].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05);
  if (ratio < 4.5) found.push([element.className || element.tagName, element.textContent.slice(0, 30), ratio]);
}
return found;
"""


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read_in_light_and_dark_on_screens_small_and_large(window, server, scene, tmp_path, dark):
    (tmp_path / "picture.png").write_bytes(scene)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    window.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    page = opened(window, server.url, tmp_path / "picture.png")
    background = page.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 200) is dark
    pick(page, "OD", "REGION_TO_OCR", "CAPTION_TO_PHRASE_GROUNDING")
    page.find_element("css selector", "#options summary").click()
    ask(page)  # refused: no region
    assert page.execute_script(CONTRASTS) == []
    pick(page, "OD", "CAPTION")
    ask(page)
    assert page.execute_script(CONTRASTS) == []
    try:
        for width in (320, 390, 800, 1900):
            size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
            page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            fits = "document.documentElement.scrollWidth <= arguments[0] && wide > 200 && wide <= arguments[0]"
            assert wait(page, f"((wide) => {fits})(document.querySelector('.picture').offsetWidth)", width), width
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_a_request_can_be_stopped(page, server):
    page.execute_script(
        "window.fetch = (url, given) => new Promise((_, no) => given.signal.onabort = () => no(given.signal.reason))"
    )
    page.find_element("id", "run").click()
    assert not page.find_element("id", "run").is_enabled()
    page.find_element("id", "stop").click()
    assert page.find_element("id", "run").is_enabled() and not page.find_element("id", "error").text


def test_masks_are_decoded_as_the_records_have_them(page):
    rng = np.random.default_rng(1)
    for height, width in ((1, 1), (7, 5), (60, 91), (400, 33)):
        mask = rng.random((height, width)) < rng.random()
        rle = geometry.encode_rle(mask)
        given = {"height": rle.height, "width": rle.width, "counts": rle.counts}
        got = page.execute_async_script(
            "const [mask, done] = arguments;"
            "import('/static/geometry.js').then((module) => done([...module.decodeMask(mask).data]))",
            given,
        )
        assert np.array_equal(np.reshape(got, (height, width)), mask)


KEY = "se:cr&et key"


@pytest.fixture(scope="module")
def locked():
    with RunningServer("nano", env={"FLORENCE2_API_KEY": KEY}) as running:
        running.wait_ready()
        yield running


def test_a_page_without_a_key_is_a_form_for_one(locked):
    refused = httpx.get(locked.url + "/", headers={"Accept": "text/html"})
    assert refused.status_code == 401 and "unsafe" not in refused.headers["content-security-policy"]
    assert refused.headers.get_list("www-authenticate") == ["Bearer"]
    plain = httpx.get(locked.url + "/v1/tasks")
    assert plain.json()["error"]["type"] == "unauthorized" and len(plain.headers.get_list("www-authenticate")) == 2
    assert httpx.get(locked.url + "/static/try.js").status_code == 401


def test_the_key_is_asked_for_once_and_kept_by_the_browser(locked, tmp_path):
    with browser.opened() as driver:
        driver.get(locked.url + "/")
        field = driver.find_element("id", "key")
        assert driver.switch_to.active_element == field
        field.send_keys("wrong")
        field.submit()
        assert "does not know this key" in wait(driver, "document.getElementById('said').textContent")
        field.clear()
        field.send_keys(KEY)
        field.submit()
        wait(driver, "document.body.dataset.ready && document.querySelector('.picture img').src")
        _, got = ask(driver)
        code = copied(driver, "copy-python")
        assert ran(code, tmp_path, FLORENCE2_API_KEY=KEY) == got["answers"] and KEY not in code
        assert KEY not in driver.page_source and driver.get_cookies() == []


def test_the_browsers_own_form_for_the_key_works_too(locked):
    with browser.opened() as driver:
        driver.get(f"http://any:se%3Acr%26et%20key@127.0.0.1:{locked.port}/?basic")
        wait(driver, "document.body.dataset.ready && document.querySelector('.picture img').src")
        assert len(ask(driver)[1]["answers"]) == 2


@pytest.mark.parametrize("store", ["", "somewhere"])
def test_the_page_leads_to_the_store_where_one_is_served(store):
    app = FastAPI()
    app.include_router(try_page.router(Settings(model="nano", store=store)))
    html = asyncio.run(call(app, "/", method="GET"))[2].decode()
    assert ('id="store-link" hidden' in html) is not bool(store)
