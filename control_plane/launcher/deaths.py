"""Why a run's container ended, in words for the run's event log.

The gap: DockerRunLauncher reports the engine's JSON, e.g. `"OOMKilled": true`, and no output of the
container. This module could be deleted if it implemented `get_run_worker_debug_info`.
"""

import signal
from collections.abc import Mapping
from typing import Any

from control_plane.code_server.usage import RUN_BEGINS, TOO_MUCH_MEMORY

# With `docker run`, the command could not be started (docs.docker.com, "Exit status").
NOT_STARTED = {126: "its command could not be executed", 127: "its command was not found"}
SIGNALS = {
    signal.SIGKILL: (
        "It was killed from outside (SIGKILL), and not for its memory: by `docker kill`, by the end"
        " of the engine or of the machine, or by the kernel when the machine had no memory left."
        " Or the run's own code did it."
    ),
    signal.SIGTERM: (
        "It was stopped from outside (SIGTERM): by `docker stop`, `make down` or the end of the"
        " engine. Or the run's own code did it."
    ),
    signal.SIGSEGV: "Native code of a package crashed (SIGSEGV).",
    signal.SIGABRT: "Native code of a package gave up (SIGABRT).",
    signal.SIGBUS: "Native code of a package crashed (SIGBUS). /dev/shm may have been too small.",
}


def cause(state: Mapping[str, Any], limit: str | int | None) -> str:
    """Why a container ended, and what to do.

    Args:
        state: The container's `State`, as the engine reports it.
        limit: Its memory limit, as dagster.yaml has it.
    """
    code = int(state["ExitCode"])
    if state["Status"] == "created":
        return f"The container was created and never started. {state['Error']}".strip()
    if is_out_of_memory(state):
        return TOO_MUCH_MEMORY.format("container", limit, "was")
    if code in NOT_STARTED or state["Error"]:
        what = state["Error"] or NOT_STARTED[code]
        return f"The container did not start: {what} (exit code {code})."
    if code > 128:
        try:
            number = signal.Signals(code - 128)
        except ValueError:
            return f"The container ended with exit code {code}."
        words = SIGNALS.get(number, f"It ended by the signal {number.name}.")
        return f"The container ended with exit code {code}. {words}"
    return (
        f"The process of the run ended with exit code {code} before it reported the run's end. Its"
        " last lines may say why. A run that was cut off from Postgres ends like this."
    )


def is_out_of_memory(state: Mapping[str, Any]) -> bool:
    """Whether a container ended because of its memory.

    The engine also reports it of one that outlived the kill of another of its processes.
    """
    return bool(state["OOMKilled"]) and int(state["ExitCode"]) == 128 + signal.SIGKILL


def last_lines(output: bytes, lines: int, run_id: str) -> str:
    """The last lines of a container's output, as a block for the event log; or nothing.

    A container may have executed other runs before this one, or after it.
    """
    text = output.decode(errors="replace").rstrip().splitlines()[-lines:]
    starts = [number for number, line in enumerate(text) if line.startswith(RUN_BEGINS)]
    own = [number for number in starts if text[number] == RUN_BEGINS + run_id]
    # If its own first line is not among them, all of them are its own, or none.
    first = own[-1] + 1 if own else len(text) if starts else 0
    after = [number for number in starts if number >= first]
    text = text[first : after[0] if after else None]
    return "\n".join(["Its last lines:", *(f"    {line}" for line in text)]) if text else ""
