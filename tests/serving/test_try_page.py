"""The page to try the model, in headless Chromium; the routes that it comes from."""

import re
from urllib.parse import urlsplit

import httpx
import pytest

from florence2.serving.pages.static_files import FOLDER, files
from tests.serving import browser


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


@pytest.fixture(scope="module")
def page(server):
    """The page in a browser, ready to be asked."""
    with browser.opened() as driver:
        driver.get(server.url + "/")
        wait(driver, "document.body.dataset.ready && document.querySelector('.picture img').src")
        yield driver


def wait(driver, expression, seconds=20):
    """The value of an expression of JavaScript, once it has one."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(driver, seconds, 0.05).until(lambda d: d.execute_script(f"return {expression}"))


def test_a_picture_is_asked_about_and_the_answer_drawn(page, server):
    page.find_element("id", "run").click()
    wait(page, "document.querySelectorAll('[role=tab]').length == 2")
    assert wait(page, "document.querySelectorAll('svg .region').length")
    assert wait(page, "document.querySelectorAll('li[data-item]').length")
    sent = browser.requested(page)
    assert {urlsplit(url).netloc for _, url, _ in sent if not url.startswith(("data:", "blob:"))} == {
        f"127.0.0.1:{server.port}"
    }
    assert browser.complaints(page) == []
