# Playwright is of the tests, which have no types.
# pyright: basic, reportMissingImports=false
"""How long the pages of the web UI take in a browser, until nothing more is asked for."""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support.chromium import chromium, sign_in

ROUNDS = 3
# What Playwright waits for after the last request, before it says that nothing more is asked for.
QUIET_SECONDS = 0.5
JOB = "/locations/code_location/jobs/process_numbers_asset"
PAGES = {
    "the timeline": "/overview/activity/timeline",
    "runs": "/runs",
    "runs of a job": "/runs?q[0]=job%3Aprocess_numbers_asset",
    "failed runs": "/runs?q[0]=status%3AFAILURE",
    "runs of a partition": "/runs?q[0]=partition%3A{day}",
    "a run": "/runs/{run}",
    "a job": JOB,
    "the runs of a job": f"{JOB}/runs",
    "assets": "/assets",
    "their graph": "/locations/code_location/asset-groups/numbers/lineage",
    "an asset": "/assets/sum_of_squares",
    "the events of an asset": "/assets/sum_of_squares?view=events",
    "automation": "/automation",
    "backfills": "/overview/backfills",
}


def seconds_of_pages(url: str, user: str, password: str, **words: str) -> dict[str, float]:
    """The median time of each page, from its address to its last answer, in a new tab each time.

    Args:
        url: Of the web UI.
        user: Who signs in.
        password: Of this user.
        words: What PAGES has in braces: a run and a day.
    """
    took: dict[str, list[float]] = {name: [] for name in PAGES}
    with chromium() as browser:
        context = browser.new_context(base_url=url)
        first = context.new_page()
        sign_in(first, user, password)
        first.close()  # it would go on asking
        for _ in range(ROUNDS):
            for name, path in PAGES.items():
                page = context.new_page()
                begun = time.monotonic()
                page.goto(path.format(**words))
                page.wait_for_load_state("networkidle", timeout=120_000)
                took[name].append(time.monotonic() - begun - QUIET_SECONDS)
                page.close()
    return {name: statistics.median(times) for name, times in took.items()}
