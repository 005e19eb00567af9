"""Ends this machine's Docker engine. `machine/setup.sh` starts it again."""

import os
import signal
from pathlib import Path

from support.harness import wait_until

PID_FILE = Path("/var/run/docker.pid")
# It ends every container of this machine: only where .ci/run or you say so. Where systemd runs, the
# engine is systemd's.
MAY_BE_KILLED = (
    os.environ.get("TEST_ENGINE_MAY_BE_KILLED") == "1" and not Path("/run/systemd/system").is_dir()
)


def end_engine(how=signal.SIGKILL):
    """Returns the number that its process had."""
    engine = int(PID_FILE.read_text())
    os.kill(engine, how)
    wait_until(lambda: not Path(f"/proc/{engine}").exists(), "the engine to be gone")
    return engine
