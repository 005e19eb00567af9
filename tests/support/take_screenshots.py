#!/usr/bin/env python3
"""Renews the pictures in docs/images/ from a stack that runs.

    env $(make -s credentials) PYTHONPATH=tests python -m support.take_screenshots

The job process_numbers_asset must have run there, as after `make demo`.
"""

import os
import re
import sys
from pathlib import Path

from playwright.sync_api import Page, expect

from support.chromium import chromium, sign_in

IMAGES = Path(__file__).resolve().parents[2] / "docs/images"
WIDTH = 1400


def save(page: Page, name: str) -> None:
    """Takes a picture of a page that has settled."""
    page.mouse.move(0, 0)
    page.wait_for_load_state("networkidle")
    expect(page.get_by_text(re.compile(r"^(Loading|Refreshing)"))).to_have_count(0)
    page.screenshot(path=IMAGES / name, animations="disabled")
    size = (IMAGES / name).stat().st_size
    print(f"docs/images/{name}: {size // 1024} KB")
    if size > 200_000:
        sys.exit(f"take_screenshots: docs/images/{name} is too large for the repository")


def op_job(page: Page) -> None:
    """Figure 2: the ops of process_numbers."""
    page.goto("/locations/code_location/jobs/process_numbers")
    expect(page.get_by_text("sum_two_sums", exact=True).first).to_be_visible()


def assets(page: Page) -> None:
    """Figure 3: the assets of the group numbers."""
    page.goto("/locations/code_location/asset-groups/numbers/lineage")
    expect(page.get_by_text("Materialized", exact=True)).to_have_count(6)
    page.get_by_role("button", name="Hide navigation").click()
    page.reload()  # draws the graph as wide as there is room now
    expect(page.get_by_text("Materialized", exact=True)).to_have_count(6)


def run(page: Page) -> None:
    """The last run of process_numbers_asset: what happened when."""
    page.goto("/locations/code_location/jobs/process_numbers_asset")
    latest = page.get_by_text("Latest run:").locator("xpath=..").get_by_role("link")
    latest.click()
    expect(page.get_by_text("RUN_SUCCESS").first).to_be_visible()
    page.get_by_role("button", name="Hide navigation").click()
    # More room for the steps: the lines around them, pulled aside.
    pull(page, "verticalDivider", x=0, y=60)
    pull(page, "horizontalDivider", x=WIDTH, y=0)
    page.reload()  # draws the steps as wide as there is room now
    expect(page.get_by_text("RUN_SUCCESS").first).to_be_visible()


def pull(page: Page, name: str, x: int, y: int) -> None:
    """Drags the line between two parts of a page."""
    line = page.locator(f"[class*={name}]").bounding_box()
    assert line
    page.mouse.move(line["x"] + 1, line["y"] + 1)
    page.mouse.down()
    page.mouse.move(line["x"] + x, line["y"] + y, steps=5)
    page.mouse.up()


def launchpad(page: Page) -> None:
    """Where process_numbers is launched by hand."""
    page.goto("/locations/code_location/jobs/process_numbers/playground")
    expect(page.get_by_role("button", name="Launch Run")).to_be_enabled()


# Each picture's height is what its content needs.
PICTURES = {
    "op-job.png": (op_job, 740),
    "assets.png": (assets, 560),
    "run.png": (run, 840),
    "launchpad.png": (launchpad, 800),
}


def main() -> None:
    """Takes them all."""
    url, user, password = (os.environ[f"DAGSTER_{name}"] for name in ("URL", "USER", "PASSWORD"))
    IMAGES.mkdir(parents=True, exist_ok=True)
    expect.set_options(timeout=30_000)
    with chromium() as browser:
        for name, (show, height) in PICTURES.items():
            page = browser.new_page(base_url=url, viewport={"width": WIDTH, "height": height})
            sign_in(page, user, password)
            show(page)
            save(page, name)
            page.close()


if __name__ == "__main__":
    main()
