"""Debian's Chromium, headless, driven by Playwright."""

from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import sync_playwright

EXECUTABLE = Path("/usr/bin/chromium")
# As root it starts without its sandbox only. The rest keeps it from calling its maker.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def sign_in(page, user, password):
    """As a person does, on the page that everything leads to."""
    page.goto("/")
    page.get_by_label("User").fill(user)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("link", name="Runs").first.wait_for()


@contextmanager
def chromium():
    """A browser, closed at the end of the block."""
    if not EXECUTABLE.exists():
        raise FileNotFoundError(f"no {EXECUTABLE}: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=EXECUTABLE, args=FLAGS)
        yield browser
        browser.close()
