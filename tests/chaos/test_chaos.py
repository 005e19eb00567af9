"""Whatever is killed, hangs or is cut off: every run ends, once, and says why when it failed."""

import statistics
import threading
import time

import pytest

from bench import report
from support import ROOT
from support.chaos import Chaos, random_faults
from support.harness import wait_until


@pytest.fixture
def chaos(new_stack):
    """A stack of its own, which launches a run every few seconds until the test is over."""
    made = Chaos(new_stack("chaos"), seconds=6)
    made.begin()
    yield made
    made.traffic.over.set()


@pytest.mark.timeout(900)
def test_however_a_run_dies_it_ends_once_and_nothing_is_left(chaos):
    """All other faults: the next test. That runs wait for Postgres: test_run_ends.py."""
    for fault in (
        "run killed before its first step",
        "run killed in a step",
        "run killed while it writes",
        "run killed after the last step",
        "waiting container killed",
    ):
        chaos.inject(fault)
    chaos.settle()
    chaos.check()


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_after_300_faults_one_by_one_and_in_any_order_nothing_is_left(chaos):
    for fault in [*chaos.service_faults, *chaos.run_faults] * 2:
        chaos.inject(fault)
    until = time.monotonic() + 600
    made = random_faults(chaos, lambda: time.monotonic() > until, pause=0.5, seed=13)
    seconds = chaos.settle()
    attempts = chaos.check()
    write_report(chaos.recoveries, made, seconds, attempts, len(chaos.not_retried))
    assert sum(map(len, chaos.recoveries.values())) + sum(made.values()) >= 300


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_after_the_machine_has_slept_every_run_has_ended_once_and_no_tick_is_lost(chaos):
    """Longer than a run may take to start; lost ticks of at most five minutes are made up."""
    requests = [chaos.traffic.request(seconds=seconds)[1] for seconds in (60, 30, 1, 1, 1, 1)]
    wait_until(lambda: chaos.stack.status_of(requests[0]) == "STARTED", "the first run")
    chaos.sleep(250)
    chaos.settle()
    attempts = chaos.check()
    # What was in progress went on.
    (first,) = (runs for runs in attempts.values() if runs[0]["runId"] == requests[0])
    assert [run["status"] for run in first] == ["SUCCESS"]


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_500_runs_through_warm_containers_end_once_though_what_hands_them_over_is_killed(chaos):
    """Every second run shares its container with others."""
    shared = [{"key": "dagster/isolation", "value": "disabled"}]

    def request_all():
        for number in range(500):
            chaos.traffic.request(seconds=0.2, tags=shared if number % 2 else [])
            chaos.traffic.over.wait(1)

    requests = threading.Thread(target=request_all, daemon=True)
    requests.start()
    faults = "daemon killed", "postgres killed", "any run killed", "a waiting container killed"
    made = random_faults(chaos, lambda: not requests.is_alive(), pause=4, seed=14, only=faults)
    seconds = chaos.settle()
    attempts = chaos.check()
    assert len(attempts) >= 500
    runs, failed, given_up = counts(attempts)
    text = (
        f"{len(attempts)} runs were requested, one a second, half of them for containers that"
        f" execute many (`dagster/isolation: disabled`). {runs} runs were launched, retries"
        f" included; {failed} failed, and {given_up} requests failed three times. None executed"
        f" twice, by a counter outside of Dagster. {seconds:.0f} s after the last request all had"
        " ended or were in progress again."
    )
    rows = [["fault", "times"], *([fault, str(made[fault])] for fault in faults)]
    file = ROOT / "bench/results/warm_containers.md"
    title = "Runs through warm containers while what hands them over is killed"
    report.write(title, text, rows, verb="make test-chaos", file=file)


def counts(attempts):
    """How many runs were launched and how many failed, and how many requests never succeeded."""
    runs = [run for one in attempts.values() for run in one]
    failed = sum(run["status"] == "FAILURE" for run in runs)
    return len(runs), failed, sum(one[-1]["status"] == "FAILURE" for one in attempts.values())


def write_report(recoveries, made, seconds, attempts, impossible):
    """How often each fault was injected, and how long the recovery took: bench/results/chaos.md."""
    rows = [["fault", "alone", "recovered: median", "worst", "in any order"]]
    for fault in [*recoveries, *(set(made) - set(recoveries))]:
        alone = recoveries.get(fault)
        median = f"{statistics.median(alone):.0f} s" if alone else ""
        worst = f"{max(alone):.0f} s" if alone else ""
        rows.append([fault, str(len(alone or [])), median, worst, str(made.get(fault, 0))])
    runs, failed, given_up = counts(attempts)
    text = (
        f"{len(attempts)} runs were requested: the client waits six seconds after each request that"
        f" was accepted. {runs} runs were launched, retries included; {failed} failed."
        f" {given_up} requests never succeeded, {impossible} of them because they need too much"
        " memory or time. The recovery is the time from the end of a fault until every service"
        " works and every run requested until then has ended, goes on, or is in the queue. After"
        " ten minutes of faults in any order, without a wait between them, it took"
        f" {seconds:.0f} s."
    )
    file = ROOT / "bench/results/chaos.md"
    report.write("Recovery from faults", text, rows, verb="make test-chaos", file=file)
