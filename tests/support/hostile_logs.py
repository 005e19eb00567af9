"""A container that writes the volume of the step logs, as a run container could."""

from contextlib import contextmanager

from support.cli import docker

RUN = "00000000-0000-4000-8000-000000000000"
KEY = [RUN, "compute_logs", "step"]
PASSFILE = "/run/dagster-credentials/pgpass"
# Arguments: the log's folder, what to link to, and what to do.
ATTACKER = f"""
import os, pathlib, sys, time
folder = pathlib.Path("/logs/{RUN}/compute_logs")
log, spare = folder / "step.out", folder / "spare"
folder.mkdir(parents=True, exist_ok=True)
for name in (log, spare):
    name.unlink(missing_ok=True)
match sys.argv[1]:
    case "swap":
        while True:
            spare.symlink_to("{PASSFILE}"); spare.replace(log)
            spare.write_text("said\\n"); spare.replace(log)
    case "link": log.symlink_to("{PASSFILE}")
    case "process": log.symlink_to("/proc/self/environ")
    case "fifo": os.mkfifo(log)
    case "folder": log.mkdir()
    case "sparse":
        with log.open("wb") as file: file.truncate(2**42)
    case "endless":
        with log.open("wb") as file:
            while file.tell() < 2**29: file.write(b"x" * 2**16)
"""


@contextmanager
def attacker(stack, kind):
    image = stack.config["services"]["code_location"]["image"]
    volume = f"--volume={stack.name}_compute-logs:/logs"
    started = docker("run", "--detach", volume, image, "python", "-c", ATTACKER, kind).strip()
    try:
        if kind not in ("swap", "endless"):
            assert stack.ended(started)["ExitCode"] == 0
        yield started
    finally:
        docker("rm", "--force", started)
        clean = "python", "-c", f"import shutil; shutil.rmtree('/logs/{RUN}', True)"
        docker("run", "--rm", volume, image, *clean)
