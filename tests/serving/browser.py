"""A headless Chromium for the tests of the pages, as Debian's packages or a developer's machine have it."""

import contextlib
import json
import os
import shutil

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def installed():
    """(browser, driver) as paths, or None: there is no browser here. FLORENCE2_CHROMIUM names one elsewhere."""
    browser = os.environ.get("FLORENCE2_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


@contextlib.contextmanager
def opened(width=1280, height=900, dark=False):
    """A browser window of this size; skipped where there is no browser."""
    found = installed()
    if found is None:
        pytest.skip("no Chromium with its chromedriver on this machine")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = found[0]
    for argument in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-dev-shm-usage",
        "disable-background-networking",
    ):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(found[1]))
    try:
        driver.set_window_size(width, height)
        if dark:
            scheme = {"name": "prefers-color-scheme", "value": "dark"}
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        yield driver
    finally:
        driver.quit()


def requested(driver):
    """(method, address, status or None) of every request that the pages of this browser made since the last call."""
    sent, status = {}, {}
    for entry in driver.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        given = message["params"]
        if message["method"] == "Network.requestWillBeSent":
            sent[given["requestId"]] = given["request"]["method"], given["request"]["url"]
        elif message["method"] == "Network.responseReceived":
            status[given["requestId"]] = given["response"]["status"]
    return [(*request, status.get(number)) for number, request in sent.items()]


def complaints(driver):
    """What the pages of this browser had to say in its console, faults of the policy among it."""
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
