"""Waits for the parts of the stack on a cluster, and says why one of them does not work."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from cli.cluster import Cluster
from cli.errors import StackError
from cli.output import say

# Of each part. It is asked in between: some reasons do not go away.
SECONDS, SECONDS_BETWEEN = 300, 20
HOPELESS = ("ErrImageNeverPull", "ErrImagePull", "ImagePullBackOff", "InvalidImageName")
RUNS = "app.kubernetes.io/name=run"
WORDS = {
    "job": ("wait", "--for=condition=complete"),
    "pod": ("wait", "--for=condition=Ready"),
}


def wait(cluster: Cluster, objects: Sequence[Mapping[str, Any]]) -> None:
    """Waits until each of some objects works; raises StackError with the reason if not."""
    for one in objects:
        kind, name = one["kind"].lower(), one["metadata"]["name"]
        words = WORDS.get(kind, ("rollout", "status"))
        try:
            until(cluster, *words, f"{kind}/{name}", name=name)
        except StackError as error:
            raise StackError(f"{name}: {error}") from None


def until(cluster: Cluster, *words: str, name: str) -> None:
    """Waits as kubectl does with some words; raises StackError with the reason of a pod if not."""
    deadline, seen = time.monotonic() + SECONDS, 0
    while True:
        try:
            cluster.kubectl(*words, f"--timeout={SECONDS_BETWEEN}s")
        except StackError as error:
            why = reason(cluster, name)
            seen = seen + 1 if why.startswith(HOPELESS) else 0
            if seen > 1 or _has_failed(cluster, words[-1]) or time.monotonic() > deadline:
                raise StackError(why or str(error)) from None
            time.sleep(1)  # kubectl may have ended at once
        else:
            return


def _has_failed(cluster: Cluster, what: str) -> bool:
    """Whether a Job or pod, such as job/migrate, has ended without success."""
    found: dict[str, Any] = cluster.get(what) or {}
    status: dict[str, Any] = found.get("status") or {}
    return bool(status.get("failed")) or status.get("phase") == "Failed"


def let_runs_end(cluster: Cluster) -> None:
    """Waits until no run has a pod that lives. Says which there are when that changes."""
    before: list[str] = []
    while True:
        pods: list[dict[str, Any]] = cluster.items("pods", f"--selector={RUNS}")
        going = sorted(
            pod["metadata"]["labels"]["dagster/run-id"][:8]
            for pod in pods
            if pod["status"]["phase"] in ("Pending", "Running")
        )
        if not going:
            return
        if going != before:
            say(f"waiting for {len(going)} runs: {', '.join(going)}")
            before = going
        time.sleep(1)


def reason(cluster: Cluster, name: str) -> str:
    """Why a pod of a service does not start, or what it printed last."""
    pods = [one for one in cluster.items("pods") if _name_of(one).endswith(name)]
    for pod in reversed(pods):
        for status in pod["status"].get("containerStatuses", []):
            waiting: dict[str, str] = status["state"].get("waiting") or {}
            if waiting.get("reason") not in (None, "ContainerCreating", "CrashLoopBackOff"):
                return f"{waiting['reason']}: {waiting.get('message', '')}"
            with suppress(StackError):  # it has not begun
                words = ("logs", pod["metadata"]["name"], "--tail=1")
                logs = cluster.kubectl(*words)
                if logs.strip():
                    return logs.strip()
        for condition in pod["status"].get("conditions", []):
            if condition["type"] == "PodScheduled" and condition["status"] != "True":
                return condition.get("message", "")
    return ""


def _name_of(pod: Mapping[str, Any]) -> str:
    return pod["metadata"]["labels"].get("app.kubernetes.io/name", "")
