"""Looks for new files in the inbox volume and asks for a run for each, once.

The cursor says up to when files have been seen, and which were seen last; the run key says
which file. So a tick that died half-way is repeated without asking for any run twice.
"""

import json
import os
import time
from pathlib import Path

from dagster import RunConfig, RunRequest, SensorResult, SkipReason, sensor

from code_location.defs.inbox.jobs import InboxFile, process_inbox_file

INBOX = Path(os.environ.get("INBOX", "/var/lib/dagster/inbox"))
# A file that changed within the last second may still be being written.
SETTLED_SECONDS = 1
# Files are ordered by when they arrived, in ticks of the kernel's clock: several can share one, and
# one that is not there yet can be older than one that is. So the last seconds are looked at again.
OVERLAP_SECONDS = 5
# Per tick; the rest waits for the next, so that a tick stays far below its time limit.
BATCH = 50


@sensor(
    job=process_inbox_file,
    minimum_interval_seconds=5,
    description="A run for every new file in the inbox; names beginning with a dot are left alone",
)
def inbox_files(context):
    if not INBOX.is_dir():
        return SkipReason(f"there is no {INBOX}: set INBOX to a folder")
    cursor = json.loads(context.cursor or '{"until": 0, "seen": []}')
    horizon = cursor["until"] - OVERLAP_SECONDS
    seen = set(cursor["seen"])
    arrivals = sorted(
        (status.st_ctime, f"{path.name}:{status.st_mtime_ns}:{status.st_size}", str(path))
        for path in INBOX.iterdir()
        if path.is_file() and not path.name.startswith(".") and (status := path.stat())
    )
    is_settled_at = time.time() - SETTLED_SECONDS
    new = [
        arrival
        for arrival in arrivals
        if horizon <= arrival[0] <= is_settled_at and arrival[1] not in seen
    ][:BATCH]
    if not new:
        return SkipReason(f"no new file in {INBOX}")
    until = new[-1][0]
    known = seen | {key for _, key, _ in new}
    recent = [key for t, key, _ in arrivals if t >= until - OVERLAP_SECONDS and key in known]
    return SensorResult(
        run_requests=[
            RunRequest(
                run_key=key,
                run_config=RunConfig(ops={"sum_numbers_in_file": InboxFile(path=path)}),
                tags={"inbox/file": Path(path).name},
            )
            for _, key, path in new
        ],
        cursor=json.dumps({"until": until, "seen": recent}),
    )
