"""A headless Chromium, to open the pages of gcn_jax.serving as people do."""

import contextlib
import pathlib
import shutil

import pytest

ROOT = pathlib.Path(__file__).parents[1]
_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
_FLAGS += ["--disable-component-update", "--disable-sync"]


@contextlib.contextmanager
def opened(url):
    """A page of Chromium that has opened an address; nothing may go wrong in it, or be asked of another server."""
    sync_api = pytest.importorskip("playwright.sync_api", reason='pip install -c requirements.txt ".[dev]"')
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("needs Chromium, such as of apt-get install chromium")
    wrong = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=_FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: request.url.startswith((url, f"blob:{url}")) or wrong.append(request.url))
        page.goto(url)
        page.wait_for_selector("#drop:visible", timeout=60_000)
        yield page
        browser.close()
    assert not wrong


def label(page, *paths):
    """Gives photos to the page, and waits until all are labelled, or have failed."""
    page.set_input_files("#files", [str(path) for path in paths])
    page.wait_for_selector("#strip button", state="attached")
    page.wait_for_selector("#strip:not(:has(button:not(.done, .failed)))", state="attached", timeout=240_000)


def saved(page, selector, folder):
    """The file that a button gives, in a folder."""
    with page.expect_download() as download:
        page.click(selector)
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path
