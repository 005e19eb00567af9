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


@contextmanager
def chromium():
    """A browser, closed at the end of the block."""
    if not EXECUTABLE.exists():
        raise FileNotFoundError(f"no {EXECUTABLE}: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=EXECUTABLE, args=FLAGS)
        yield browser
        browser.close()
