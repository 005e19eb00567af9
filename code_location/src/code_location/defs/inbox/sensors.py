"""A sensor that requests one run for each new file on the volume `inbox`.

The cursor contains the time of the newest file that the sensor has seen, and the files that it
saw last. The run key identifies the file. If a tick fails half-way, the next one repeats it, and no
file gets a second run.
"""

import json
import os
import time
from pathlib import Path

from dagster import RunConfig, RunRequest, SensorResult, SkipReason, sensor

from code_location.defs.inbox.jobs import InboxFile, process_inbox_file

INBOX = Path(os.environ.get("INBOX", "/var/lib/dagster/inbox"))
# A program may still be writing a file that changed within the last second.
SETTLED_SECONDS = 1
# The sensor orders files by their time of arrival, in ticks of the kernel's clock. Several files
# can have the same time, and a file can appear with an older time than a file before it. Each
# evaluation therefore looks at the last seconds again.
OVERLAP_SECONDS = 5
# The most files in one tick. The rest waits for the next tick, which keeps each tick short.
BATCH = 50


@sensor(
    job=process_inbox_file,
    minimum_interval_seconds=5,
    description="Request a run for every new file in the inbox, except names that begin with a dot",
)
def inbox_files(context):
    if not INBOX.is_dir():
        return SkipReason(f"the folder {INBOX} does not exist: set INBOX")
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
