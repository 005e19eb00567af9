#!/usr/bin/env python3
"""Measures Dagster's documented stack and this one: as it is, cold, and with shared containers.

    side_by_side.py            an hour; nothing else may use the machine
    side_by_side.py --quick    fewer rounds, no schedule, no sensor, no deploy, no burst of 100
    side_by_side.py --bursts   the bursts of 20 alone, for the last result

All serve the same project, from the same base images, with the same packages. For each job, a round
launches it once on each, in turns; what needs the whole machine is measured while the others are
paused. A run that fails ends the measurement. Writes bench/results/side_by_side.json, and
from it the table and the picture beside it and the table in README.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import report
from bench.engine import use_of
from bench.peers import (
    COLD,
    COLD_PORT,
    OURS_PORT,
    PROJECT,
    SHARED,
    SHARED_PORT,
    Ours,
    Peer,
    Shared,
    Stock,
    Warm,
    make_checkout,
    make_project,
)
from bench.picture import Pair, draw
from cli.errors import StackError
from cli.output import table
from cli.stack import ROOT, docker

RESULTS = ROOT / "bench/results/side_by_side.json"
# The picture shows the first three.
JOBS = {
    "one_op": "a job with one op",
    "process_numbers": "`process_numbers`, six ops",
    "process_numbers_asset": "`process_numbers_asset`, six assets",
    "parallel_steps": "20 steps that do not wait for each other",
    "isolated_steps": "`process_numbers`, a process for each step",
}
ROUNDS, QUICK_ROUNDS = 10, 5
# A run with a process for each step takes long.
SLOW, SLOW_ROUNDS, QUICK_SLOW_ROUNDS = {"parallel_steps", "isolated_steps"}, 4, 2
BURSTS, QUICK_BURSTS = (20, 100), (20,)
IDLE_SECONDS, TICKS = 60, 3
# After a pause, the services catch up with their polls.
SETTLE_SECONDS = 30
REPOSITORY = {"repositoryLocationName": "code_location", "repositoryName": "__repository__"}
SCHEDULE = {**REPOSITORY, "scheduleName": "each_minute"}
SENSOR = {**REPOSITORY, "sensorName": "after_one_op"}
EVENTS, DEPLOYS = 5, 3
SWITCH_ON = """mutation On($which: ScheduleSelector!) { startSchedule(scheduleSelector: $which) {
  ... on ScheduleStateResult { scheduleState { id } } } }"""
SWITCH_OFF = "mutation Off($id: String!) { stopRunningSchedule(id: $id) { __typename } }"
SENSOR_ON = """mutation On($which: SensorSelector!) { startSensor(sensorSelector: $which) {
  ... on Sensor { sensorState { id ticks(limit: 1) { id } } } } }"""
SENSOR_OFF = "mutation Off($id: String!) { stopSensor(id: $id) { __typename } }"
TICK_RUNS = """{ runsOrError(filter: {tags: [{key: "dagster/schedule_name", value: "each_minute"}]})
  { ... on Runs { results { runId status startTime tags { key value } } } } }"""
EVENT_RUNS = """query Runs($key: String!) { runsOrError(filter: {tags: [
  {key: "dagster/run_key", value: $key}]}) { ... on Runs { results { status startTime } } } }"""

README, BEGIN, END = ROOT / "README.md", "<!-- from bench/results -->", "<!-- end -->"
# What README shows: the figure, its label, the unit, the number of digits.
SHOWN = (
    *((f"{job}, launch to success", f"{JOBS[job]}, launch to success", "s", 2) for job in JOBS),
    ("burst of 20, runs per minute", "20 runs launched at once, throughput", "runs/min", 0),
    ("burst of 20, CPU seconds per run", "the same, CPU time per run", "s", 1),
    ("idle, % of a core", "idle, CPU", "% of a core", 1),
    ("idle, MiB", "idle, memory", "MiB", 0),
)

# In the order of the columns.
PEERS = "stock", "bench", "cold", "shared"
Samples = dict[str, dict[str, list[float]]]


def say(line: str) -> None:
    """Progress."""
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def busy_seconds() -> float:
    """The CPU time of all processes of this machine, the engine's included."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _wait, irq, softirq = map(int, fields[:7])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def measure_jobs(peers: list[Peer], samples: Samples, *, quick: bool) -> None:
    """Launch to start and launch to success, one run at a time, in turns."""
    rounds = QUICK_ROUNDS if quick else ROUNDS
    slow_rounds = QUICK_SLOW_ROUNDS if quick else SLOW_ROUNDS
    for job in JOBS:
        for peer in peers:
            peer.timed(job)  # the first one finds cold caches
        for number in range(slow_rounds if job in SLOW else rounds):
            for peer in peers if number % 2 else peers[::-1]:
                start, end = peer.timed(job)
                samples[f"{job}, launch to start"][peer.name].append(start)
                samples[f"{job}, launch to success"][peer.name].append(end)
        medians = {
            peer.name: statistics.median(samples[f"{job}, launch to success"][peer.name])
            for peer in peers
        }
        say(f"{job}: {', '.join(f'{name} {medians[name]:.2f} s' for name in medians)}")


def measure_burst(peer: Peer, count: int, samples: Samples) -> None:
    """Launches many runs at once."""
    busy, begun = busy_seconds(), time.time()
    runs = [peer.client.launch("one_op") for _ in range(count)]
    ends = [peer.waited(run, begun)[1] for run in runs]
    for run in runs:
        peer.wait_for_container(run)
    # The polls of this program and what the services do anyway count as well, for both peers.
    samples[f"burst of {count}, seconds"][peer.name].append(max(ends))
    samples[f"burst of {count}, runs per minute"][peer.name].append(60 * count / max(ends))
    used = (busy_seconds() - busy) / count
    samples[f"burst of {count}, CPU seconds per run"][peer.name].append(used)
    say(f"{peer.name}: {count} runs in {max(ends):.0f} s, {used:.1f} CPU seconds each")


def measure_idle(peer: Peer, samples: Samples) -> None:
    """CPU and memory of the services while nothing happens."""
    services = peer.services()
    # The same part of both.
    services = {name.replace("user_code", "code_location"): services[name] for name in services}
    services |= {f"warm container {n}": one for n, one in enumerate(peer.warm(), 1)}
    time.sleep(SETTLE_SECONDS)
    before = {name: use_of(services[name]) for name in services}
    begun = time.monotonic()
    time.sleep(IDLE_SECONDS)
    seconds = time.monotonic() - begun
    after = {name: use_of(services[name]) for name in services}
    cpu = {name: after[name].cpu_seconds - before[name].cpu_seconds for name in services}
    samples["idle, % of a core"][peer.name].append(100 * sum(cpu.values()) / seconds)
    samples["idle, MiB"][peer.name].append(sum(use.mib for use in after.values()))
    for name in services:
        samples[f"idle, % of a core, {name}"][peer.name].append(100 * cpu[name] / seconds)
        samples[f"idle, MiB, {name}"][peer.name].append(after[name].mib)


def measure_ticks(peer: Peer, samples: Samples) -> None:
    """From the minute of a schedule to the start of its run."""
    on = peer.client.graphql(SWITCH_ON, which=SCHEDULE)["startSchedule"]["scheduleState"]["id"]
    try:
        found: list[dict[str, Any]] = []
        while len(found) < TICKS:
            time.sleep(1)
            runs = peer.client.graphql(TICK_RUNS)["runsOrError"]["results"]
            found = [run for run in runs if run["status"] == "SUCCESS"]
    finally:
        peer.client.graphql(SWITCH_OFF, id=on)
    for run in found:
        since = run["startTime"] % 60
        samples["schedule, tick to start"][peer.name].append(since)


def measure_events(peer: Peer, samples: Samples) -> None:
    """From the end of a run to the start of the run that a sensor requests for it."""
    on = peer.client.graphql(SENSOR_ON, which=SENSOR)["startSensor"]["sensorState"]["id"]
    try:
        # Its first evaluation notes where to begin.
        while not peer.client.graphql(SENSOR_ON, which=SENSOR)["startSensor"]["sensorState"][
            "ticks"
        ]:
            time.sleep(1)
        for number in range(EVENTS):
            time.sleep(1 + number)  # polls must not have the same distance each time
            begun = time.time()
            run = peer.client.launch("one_op")
            _, end = peer.waited(run, begun)
            found: list[dict[str, Any]] = []
            while not found or found[0]["status"] != "SUCCESS":
                time.sleep(0.2)
                found = peer.client.graphql(EVENT_RUNS, key=run)["runsOrError"]["results"]
            samples["sensor, event to start"][peer.name].append(found[0]["startTime"] - begun - end)
    finally:
        peer.client.graphql(SENSOR_OFF, id=on)


def measure_deploys(peer: Peer, samples: Samples) -> None:
    """From a changed file to the success of a run of the new image."""
    changed = PROJECT / "src/code_location/defs/bench_jobs.py"
    for number in range(DEPLOYS):
        changed.write_text(f"{changed.read_text()}# {peer.name} {number}\n")
        begun = time.time()
        peer.build()
        peer.compose("up", "--detach", "--no-build")
        image = next(name for name in peer.images() if "code" in name)
        new = docker("image", "inspect", "--format", "{{.Id}}", image)
        while True:
            try:
                run = peer.client.launch("one_op")
                _, end = peer.waited(run, begun)
            except StackError:  # the code server is away
                time.sleep(0.2)
                continue
            if docker("inspect", "--format", "{{.Image}}", peer.container_of(run)) == new:
                break
        samples["deploy, changed file to success"][peer.name].append(end)


def measure_bursts(peers: list[Peer], samples: Samples) -> None:
    """A burst of 20 on each peer, while the others are paused."""
    for peer in peers:
        with ExitStack() as others:
            for other in peers:
                if other is not peer:
                    others.enter_context(other.paused())
            peer.timed("one_op")
            time.sleep(SETTLE_SECONDS)
            measure_burst(peer, 20, samples)


def measure(peers: list[Peer], samples: Samples, *, quick: bool) -> None:
    """Everything, with all peers up."""
    compared = [peer for peer in peers if not isinstance(peer, Shared)]
    measure_jobs(compared, samples, quick=quick)
    for peer in peers:
        with ExitStack() as others:
            for other in peers:
                if other is not peer:
                    others.enter_context(other.paused())
            if peer in compared:
                measure_idle(peer, samples)
            else:
                peer.timed("one_op")
                time.sleep(SETTLE_SECONDS)
            is_cold = peer.name == "cold"
            for count in QUICK_BURSTS if quick or is_cold else BURSTS:
                measure_burst(peer, count, samples)
            if not quick and peer in compared and not is_cold:
                measure_ticks(peer, samples)
                measure_events(peer, samples)
                measure_deploys(peer, samples)
    # Started again, with images and volumes there.
    for peer in compared:
        for _ in range(3):
            peer.compose("down")
            samples["up to usable"][peer.name].append(peer.start())
    for _ in range(5):
        for peer in compared:
            image = next(name for name in peer.images() if "code" in name)
            begun = time.monotonic()
            docker("run", "--rm", image, "true")
            samples["floor: a container that does nothing"][peer.name].append(
                time.monotonic() - begun
            )


def main() -> None:
    """Exits with status 1 when a run did not succeed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--bursts", action="store_true")
    flags = parser.parse_args()
    quick: bool = flags.quick
    make_project()
    make_checkout(COLD, "warm_containers: 1", "warm_containers: 0")
    make_checkout(SHARED, "runs_per_container: 1", "runs_per_container: 25")
    peers: list[Peer] = [
        Stock(),
        Warm("bench", ROOT, OURS_PORT),
        Ours("cold", COLD, COLD_PORT),
        Shared("shared", SHARED, SHARED_PORT),
    ]
    samples: Samples = defaultdict(lambda: defaultdict(list))
    try:
        for peer in peers:
            say(f"{peer.name}: building, starting")
            peer.build()
            peer.start()
        if flags.bursts:
            measure_bursts(peers, samples)
        else:
            measure(peers, samples, quick=quick)
        sizes = {peer.name: peer.images() for peer in peers}
    except StackError as error:
        sys.exit(f"bench: {error}")
    finally:
        # Half an hour of samples, should something fail at the end.
        PROJECT.with_name("samples.json").write_text(json.dumps(samples))
        with ExitStack() as stack:
            for peer in peers:
                stack.callback(peer.remove)
    if flags.bursts:
        result = json.loads(RESULTS.read_text())
        result["samples"] |= samples
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
        write(result, quick=False)
        return
    result = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": {
            "cores": os.cpu_count(),
            "system": platform.platform(),
            "engine": docker("version", "--format", "{{.Server.Version}}").strip(),
        },
        "quick": quick,
        "image MB": sizes,
        "samples": samples,
    }
    if not quick:
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    write(result, quick=quick)


def write(result: dict[str, Any], *, quick: bool) -> None:
    """Prints the tables. Without `quick`, writes them."""
    samples: Samples = result["samples"]
    rows = [
        [
            "", "stock", "highest", "ours", "highest", "cold", "highest", "shared", "highest",
            "times", "stock / ours", "by round", "stock / cold", "stock / shared",
        ]
    ]  # fmt: skip
    for figure in samples:
        stock, ours, cold, shared = (samples[figure].get(name, []) for name in PEERS)
        # The seconds of a burst say the same as its runs per minute.
        if figure.endswith("per minute"):
            continue
        row, ratio, spread = [figure], "", ""
        for one in (stock, ours, cold, shared):
            row.append(f"{statistics.median(one):.2f}" if one else "")
            row.append(f"{max(one):.2f}" if len(one) > 1 else "")
        if stock and ours:
            ratio = f"{statistics.median(stock) / statistics.median(ours):.1f}"
            ratios = [one / other for one, other in zip(stock, ours, strict=True)]
            spread = f"{min(ratios):.1f} to {max(ratios):.1f}" if len(ratios) > 1 else ""
        others = [
            f"{statistics.median(stock) / statistics.median(one):.1f}" if stock and one else ""
            for one in (cold, shared)
        ]
        rows.append([*row, str(len(stock or ours)), ratio, spread, *others])
    machine = result["machine"]
    text = (
        f"{machine['system']}, Docker {machine['engine']}. Seconds, if nothing else is said. Of"
        " each peer: the median of so many *times*, and the highest value. Then the ratio of the"
        " medians, and the lowest and the highest ratio of the two values of one round. `stock` is"
        " bench/stock/. `ours` is this stack as it comes. In dagster.yaml, `cold` has"
        " warm_containers: 0, and `shared`, which is measured in bursts alone, has"
        " runs_per_container: 25. In `stock`, as Dagster does by default, each step of a run has a"
        " process, and at most 10 runs are in progress. In the others the steps of a run share a"
        " process, unless the project names an executor, as `isolated_steps` does, and at most 4"
        " runs are in progress. `one_op` has one step, `parallel_steps` 20, `isolated_steps` those"
        " of `process_numbers`. The steps"
        " do almost no work: the times are what Dagster adds. `stock` has no edge, guard, sign_in."
    )
    if quick:
        print(table(rows))
        return
    title = "Side by side with Dagster's documented deployment"
    report.write(title, text, rows, file=RESULTS.with_suffix(".md"))
    pairs = [
        Pair(JOBS[job].replace("`", ""), *(at(samples, job, name) for name in ("stock", "bench")))
        for job in list(JOBS)[:3]
    ]
    shown = f"Launch to success, {machine['cores']} cores: median, and a line to the slowest run"
    RESULTS.with_suffix(".svg").write_text(draw(shown, pairs))
    before, _, rest = README.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    README.write_text(f"{before}{BEGIN}\n{in_readme(result)}\n{END}{after}")


def in_readme(result: dict[str, Any]) -> str:
    """The lines that README shows, as Markdown."""
    samples: Samples = result["samples"]
    lines = [
        "| | Dagster's documented deployment | this stack | ratio |",
        "| --- | --- | --- | --- |",
    ]
    for figure, label, unit, digits in SHOWN:
        stock, ours = (statistics.median(samples[figure][name]) for name in ("stock", "bench"))
        ratio = ours / stock if unit.endswith("/min") else stock / ours
        cells = (f"{value:.{digits}f} {unit}" for value in (stock, ours))
        lines.append(f"| {label} | {' | '.join(cells)} | {ratio:.1f} times |")
    machine = result["machine"]
    where = f"{machine['cores']} cores, Docker {machine['engine']}, {result['date']}"
    note = (
        f"({where}. Medians of 4 to 10 runs; idle and throughput were measured once. How, and"
        " [all figures](bench/results/side_by_side.md), from `make bench`.)"
    )
    return "\n".join([*lines, "", note])


def at(samples: Samples, job: str, peer: str) -> tuple[float, float]:
    """The median and the highest of a job's times to success."""
    times = samples[f"{job}, launch to success"][peer]
    return statistics.median(times), max(times)


if __name__ == "__main__":
    main()
