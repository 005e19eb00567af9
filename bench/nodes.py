#!/usr/bin/env python3
# The tests, whose cluster this is, have no types.
# pyright: basic, reportMissingImports=false
"""Measures how many waiting runs a cluster does in a minute, with one to three nodes for them.

The cluster is that of the tests: its nodes are containers on this machine, and share its cores. So
the runs sleep, and a node has places for two of them: nothing here is about CPU time.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ.setdefault("TEST_STACK_PREFIX", "dagster-bench")

import yaml  # noqa: E402

from bench import report  # noqa: E402
from support.harness import wait_until  # noqa: E402
from support.kubernetes import Cluster  # noqa: E402
from support.stacks import Stacks  # noqa: E402

PLACE = "bench.dagster.stack/place"
# Nodes that are open to runs, places of each, runs, and the seconds that a run sleeps. In the last
# one, all are there at once: two cores start them in some minutes.
BURSTS = [(1, 2, 12, 20), (2, 2, 40, 20), (3, 2, 24, 20), (3, 34, 100, 600)]
CODE = """
import time
from dagster import job, op

@op(config_schema={"seconds": int})
def sleep(context): time.sleep(context.op_config["seconds"])

@job
def sleeper(): sleep()
"""
# Clock ticks of the daemon's process.
TICKS = "print(sum(map(int, open('/proc/1/stat').read().rpartition(')')[2].split()[11:13])))"
CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'dagster_code'"
TRANSACTIONS = "SELECT xact_commit FROM pg_stat_database WHERE datname = 'dagster'"
ENDED = """query Ended($mark: String!) {
  runsOrError(filter: {tags: [{key: "mark", value: $mark}]}) {
    ... on Runs { results { runId status startTime endTime } } } }"""


def main() -> None:
    """Makes a cluster, measures, and removes it."""
    with tempfile.TemporaryDirectory() as register:
        stacks = Stacks(register)
        stack = stacks.make("nodes")
        stack.name_on_cluster = stack.registered
        (stack.root / "code_location/src/code_location/defs/sleeper.py").write_text(CODE)
        file = stack.root / "dagster.yaml"
        instance: dict[str, Any] = yaml.safe_load(file.read_text())
        # Runs wait for a place.
        instance["run_monitoring"]["start_timeout_seconds"] = 900
        file.write_text(yaml.safe_dump(instance))
        cluster = Cluster(stack)
        try:
            config = stack.root / "store.ini"
            config.write_text(cluster.start_store())
            settings = "STORE=s3", f"STORE_CONFIG={config}", "CLUSTER_MAX_RUNS=100"
            (stack.root / ".env").write_text("\n".join([*settings, "CLUSTER_DATABASE_SIZE=1Gi"]))
            cluster.import_stack()
            cluster.up()
            # The policy allows no resource but memory and CPU, and a place is neither. Here, every
            # Job is one of the measurement.
            policy = f"{cluster.name}-runs"
            cluster.kubectl("delete", "validatingadmissionpolicybinding", policy)
            cluster.sign_in()
            cluster.forward()
            rows = [measure(cluster, *burst) for burst in BURSTS]
        finally:
            cluster.remove()
            stacks.remove(stack)
    head = ["nodes", "places", "runs", "sleep, s", "on each node", "most at once", "last start, s"]
    head += [
        "seconds",
        "runs/min",
        "times one node",
        "daemon CPU s/run",
        "connections of runs",
        "transactions/run",
    ]
    one = float(rows[0][8])
    for row in rows:
        times = f"{float(row[8]) / one:.2f}"
        row.insert(9, times if row[3] == rows[0][3] else "")
    report.write(
        "Runs on one to three nodes",
        "A cluster of three nodes on this machine (`tests/cluster/`), which share its cores. A run"
        " takes one of the places of its node, and sleeps. From the first launch to the last end;"
        " all runs were seen in SUCCESS. The connections are the most that were seen from run"
        " containers and code servers.",
        [head, *rows], verb="make bench-nodes",
    )  # fmt: skip


def measure(cluster: Cluster, nodes: int, places: int, runs: int, sleep: int) -> list[str]:
    """One burst: a row of the table, without the ratio."""
    stack = cluster.stack
    for number in range(3):
        name = f"node{number}"
        cluster.kubectl("uncordon" if number < nodes else "cordon", name)
        patch = {"status": {"capacity": {PLACE: str(places)}}}
        words = "patch", "node", name, "--subresource=status", "--type=merge"
        cluster.kubectl(*words, f"--patch={json.dumps(patch)}")
    # What a sleeping run needs: 34 of them are on a node of two cores.
    requests = {PLACE: "1", "cpu": "10m", "memory": "128Mi"}
    limits = {PLACE: "1", "cpu": "1", "memory": "512Mi"}
    wants = {"container_config": {"resources": {"requests": requests, "limits": limits}}}
    mark = f"{runs} with {nodes}"
    tags = {"mark": mark, "dagster-k8s/config": json.dumps(wants)}
    before, begun = ticks(cluster), time.time()
    transactions = int(cluster.sql(TRANSACTIONS))
    config = {"ops": {"sleep": {"config": {"seconds": sleep}}}}
    ids = [stack.launch("sleeper", tags=tags, config=config) for _ in range(runs)]
    most = at_once = 0

    def all_ended() -> list[dict[str, Any]]:
        nonlocal most, at_once
        most = max(most, int(cluster.sql(CONNECTIONS)))
        found: list[dict[str, Any]] = stack.graphql(ENDED, mark=mark)["runsOrError"]["results"]
        at_once = max(at_once, sum(one["status"] == "STARTED" for one in found))
        ended = [one for one in found if one["status"] in ("SUCCESS", "FAILURE")]
        return ended if len(ended) == len(ids) else []

    found = wait_until(all_ended, f"{runs} runs to end", 1800)
    statuses = Counter(one["status"] for one in found)
    if statuses != {"SUCCESS": runs}:
        raise SystemExit(f"{mark}: {dict(statuses)}")
    seconds = max(one["endTime"] for one in found) - begun
    last = max(one["startTime"] for one in found) - begun
    used = (ticks(cluster) - before) / os.sysconf("SC_CLK_TCK") / runs
    transactions = int(cluster.sql(TRANSACTIONS)) - transactions
    words = ("get", "pods", *cluster.own, "--selector=app.kubernetes.io/name=run", "--output=json")
    pods = json.loads(cluster.kubectl(*words))["items"]
    spread = Counter(
        pod["spec"]["nodeName"] for pod in pods
        if pod["metadata"]["labels"].get("dagster/run-id") in ids
    )  # fmt: skip
    shares = " ".join(str(spread[f"node{number}"]) for number in range(nodes))
    print(f"{nodes} nodes: {runs} runs in {seconds:.0f} s, {shares}", flush=True)
    return [
        str(nodes), str(nodes * places), str(runs), str(sleep), shares, str(at_once), f"{last:.0f}",
        f"{seconds:.0f}",
        f"{runs / seconds * 60:.1f}", f"{used:.2f}", str(most), f"{transactions / runs:.0f}",
    ]  # fmt: skip


def ticks(cluster: Cluster) -> int:
    """The CPU time of the daemon so far."""
    words = "exec", *cluster.own, "deployment/daemon", "--", "python", "-c", TICKS
    return int(cluster.kubectl(*words))


if __name__ == "__main__":
    main()
