"""Faults, a steady rate of runs that meets them, and what must hold afterwards."""

import random
import shutil
import signal
import subprocess
import threading
import time
from collections import defaultdict
from itertools import groupby

from support import ROOT
from support.cli import FINAL, LAUNCH, StackError, docker, health
from support.engine import MAY_BE_KILLED, end_engine
from support.harness import wait_until

DEFINITIONS = ROOT / "tests/support/chaos_definitions.py"
SERVICES = ["postgres", "guard", "code_location", "webserver", "daemon", "sign_in", "edge"]
# One of these is in the event log of each run that has failed.
REASONS = (
    "It was killed from outside",
    "The run did not start.",
    "An exception was thrown during execution",
    "Caught an unrecoverable error while dequeuing the run",
    "more memory than its limit",
    "no connection to Postgres",
    "is not on this machine any more",
    "before it reported the run's end",
    "Exceeded maximum runtime",
    "The connection to Postgres was lost while the run was launched",
    "The connection to Postgres was lost while the run was put into the queue",
)
SELECTOR = {
    "repositoryLocationName": "code_location",
    "repositoryName": "__repository__",
}
SCHEDULE = {**SELECTOR, "scheduleName": "chaos_minute"}
SWITCH_ON = """mutation On($which: ScheduleSelector!) {
    startSchedule(scheduleSelector: $which) { __typename } }"""
SWITCH_OFF = "mutation Off($id: String!) { stopRunningSchedule(id: $id) { __typename } }"
WAITING = """SELECT container_id FROM warm_containers
  WHERE run_id IS NULL AND is_waiting(number)"""
TICKS = """query Ticks($which: InstigationSelector!) { instigationStateOrError(
    instigationSelector: $which) { ... on InstigationState { id
      ticks { status timestamp } } } }"""


def kill(stack, service):
    """Ends a service's processes, from inside: to the engine, `docker kill` is a wish to stop."""
    container = stack.container_of(service)
    subprocess.run(["docker", "exec", container, "sh", "-c", "kill -9 -1"], check=False)


class Traffic(threading.Thread):
    """Launches a run every few seconds, each until the API has accepted it."""

    def __init__(self, stack, seconds):
        super().__init__(name="traffic", daemon=True)
        self.stack, self.seconds = stack, seconds
        self.lock = threading.Lock()
        self.requests = 0
        self.over = threading.Event()

    def run(self):
        while not self.over.wait(self.seconds):
            self.request()

    def end(self):
        self.over.set()
        self.join()

    def request(self, dies="", seconds=1.0, tags=()):
        """Has a run launched; returns its request's number, and its ID.

        Args:
            dies: Where the first attempt is killed (chaos_definitions.py).
            seconds: How long its first step takes.
            tags: Further tags of the run.
        """
        with self.lock:
            self.requests += 1
            number = f"r{self.requests}"
        goes_on_until = 0
        while True:
            try:
                # The API may have accepted it, and ended before it said so; or before it was in
                # the queue. Then it never will be, and the client asks again. If only the
                # connection was lost, the API goes on.
                for run in self.stack.runs_tagged("chaos", number):
                    if never_queued({"tags": self.stack.tags_of(run["runId"])}):
                        continue
                    if run["status"] != "NOT_STARTED":
                        return number, run["runId"]
                    if time.monotonic() < goes_on_until:
                        raise StackError("it may come into the queue")
                goes_on_until = time.monotonic() + 15
                return number, self.launch(number, dies, seconds, tags)
            except (StackError, OSError, ValueError):
                time.sleep(0.5)

    def launch(self, number, dies="", seconds=1.0, tags=()):
        """Asks once; returns the run's ID, or raises StackError."""
        config = {"config": {"number": number, "dies": dies, "seconds": seconds}}
        marks = [{"key": "chaos", "value": number}, *tags]
        params = {
            "selector": {**SELECTOR, "jobName": "chaos"},
            "runConfigData": {"ops": {"chaos_value": config, "chaos_length": config}},
            "executionMetadata": {"tags": marks},
        }
        answer = self.stack.graphql(LAUNCH, params=params)["launchRun"]
        if "run" not in answer:
            raise StackError(str(answer))
        return answer["run"]["runId"]


class Chaos:
    """A stack with traffic, and what happens to it."""

    def __init__(self, stack, seconds):
        self.stack = stack
        self.traffic = Traffic(stack, seconds)
        self.recoveries = defaultdict(list)
        # The requests whose runs are not launched again.
        self.not_retried = set()
        places = "in a step", "while it writes", "between two steps", "after the last step"
        self.run_faults = {
            "Postgres away for 20 s": lambda: self.away("postgres", 20),
            "run cut off from Postgres for 20 s": self.cut_off,
            "run killed before its first step": self.kill_before_the_first_step,
            **{f"run killed {where}": lambda w=where: self.kill_run(w) for where in places},
            "waiting container killed": lambda: docker("kill", self.waiting()),
            "waiting container hung": self.hang_while_it_waits,
        }
        self.service_faults = {
            **{f"{service} killed": lambda s=service: kill(stack, s) for service in SERVICES},
            "code server hung for 10 s": self.hang_code_server,
            "code server gone for 10 s": lambda: self.away("code_location", 10),
            "everything killed": self.kill_everything,
            "daemon stopped and started": lambda: self.stack.compose("restart", "daemon"),
            "Postgres away for 60 s": lambda: self.away("postgres", 60),
            "run needs too much memory": self.exceed_the_memory,
            "run takes too long": self.exceed_the_time,
        }
        if MAY_BE_KILLED:
            self.service_faults |= {
                "engine killed": lambda: self.end_engine(signal.SIGKILL),
                "engine restarted": lambda: self.end_engine(signal.SIGTERM),
            }

    def begin(self):
        """Starts the stack and the traffic, and switches the schedule on."""
        defs = self.stack.root / "code_location/src/code_location/defs"
        shutil.copy(DEFINITIONS, defs)
        done = self.stack.verb("up")
        assert done.returncode == 0, f"{done.stdout}{done.stderr}"
        self.stack.graphql(SWITCH_ON, which=SCHEDULE)
        self.began = time.time()
        self.traffic.start()

    # The faults. Each returns when it is over.

    def hang_code_server(self, seconds=10):
        container = self.stack.container_of("code_location")
        docker("pause", container)
        time.sleep(seconds)
        docker("unpause", container)

    def away(self, service, seconds):
        self.stack.compose("stop", "--timeout", "1", service)
        time.sleep(seconds)
        self.stack.compose("start", service)

    def cut_off(self, seconds=20):
        _, run = self.traffic.request()
        wait_until(lambda: self.stack.status_of(run) == "STARTED", f"run {run}")
        container = self.stack.run_containers()[run]
        network = f"{self.stack.name}_runs"
        address = self.stack.inspect(container)["NetworkSettings"]["Networks"][network]["IPAddress"]
        docker("network", "disconnect", network, container)
        time.sleep(seconds)
        try:
            docker("network", "connect", "--ip", address, network, container)
        except StackError:  # another run has the address meanwhile
            docker("network", "connect", network, container)

    def kill_before_the_first_step(self):
        _, run = self.traffic.request()
        alive = self.stack.run_containers
        docker("kill", wait_until(lambda: alive(running_only=True).get(run), f"run {run}"))

    def kill_run(self, where):
        number, run = self.traffic.request(dies=where)
        container = wait_until(lambda: self.stack.run_containers().get(run), f"run {run}")
        state = self.stack.inspect
        wait_until(lambda: state(container)["State"]["Status"] == "exited", f"the end of run {run}")
        lines = self.counted()[number]
        assert any(line.startswith(run) for line in lines), (number, run, lines)

    def waiting(self):
        """A container that waits for a run."""
        return wait_until(lambda: self.stack.sql(WAITING), "a container that waits")[0]

    def hang_while_it_waits(self):
        container = self.waiting()
        docker("pause", container)
        _, run = self.traffic.request()
        begun = "STARTED", *FINAL
        wait_until(lambda: self.stack.status_of(run) in begun, f"the start of run {run}")
        docker("unpause", container)

    def kill_any_run(self):
        alive = self.stack.run_containers(running_only=True).values()
        docker("kill", random.choice(list(alive)))  # noqa: S311

    def end_engine(self, how):
        end_engine(how)
        subprocess.run([ROOT / "machine/setup.sh"], capture_output=True, check=True)

    def exceed_the_memory(self):
        number, run = self.traffic.request(dies="for its memory")
        self.not_retried.add(number)
        assert self.stack.finished(run) == "FAILURE"

    def exceed_the_time(self):
        limits = {"dagster/max_runtime": "5", "dagster/max_retries": "0"}
        tags = [{"key": key, "value": limits[key]} for key in limits]
        number, run = self.traffic.request(seconds=600.0, tags=tags)
        self.not_retried.add(number)
        # Dagster first reports that the run is canceled.
        wait_until(lambda: self.stack.status_of(run) == "FAILURE", f"the end of run {run}")

    def kill_everything(self):
        services = self.stack.services().values()
        containers = [row["ID"] for row in services if row["State"] == "running"]
        containers += self.stack.run_containers(running_only=True).values()
        subprocess.run(["docker", "kill", *containers], capture_output=True, check=False)
        again = "up", "--detach", "--wait", "--no-build"
        # Compose gives up when the engine pauses before it restarts a container that died often.
        wait_until(lambda: not self.stack.compose(*again, check=False).returncode, "the start", 300)

    def sleep(self, seconds):
        """All processes stop, and the clock goes on, as when a machine sleeps."""
        services = [
            row["ID"] for row in self.stack.services().values() if row["State"] == "running"
        ]
        containers = [*services, *self.stack.run_containers(running_only=True).values()]
        for container in containers:
            # A run may have ended meanwhile.
            subprocess.run(["docker", "pause", container], capture_output=True, check=False)
        time.sleep(seconds)
        for container in containers:
            subprocess.run(["docker", "unpause", container], capture_output=True, check=False)

    # What happens then.

    def inject(self, fault):
        """One fault, and the time from its end until nothing waits for anything."""
        {**self.run_faults, **self.service_faults}[fault]()
        over = time.monotonic()
        last = self.traffic.requests
        wait_until(lambda: self.has_recovered(last), f"the recovery from: {fault}", 300)
        seconds = time.monotonic() - over
        self.recoveries[fault].append(seconds)
        print(f"{fault}: recovered after {seconds:.0f} s", flush=True)

    def runs(self):
        """The attempts of each request, oldest first."""
        query = """query Runs($cursor: String) { runsOrError(cursor: $cursor, limit: 100,
            filter: {pipelineName: "chaos"}) { ... on Runs { results {
              runId status tags { key value } } } } }"""
        found, page = [], None
        while page is None or len(page) == 100:
            cursor = page[-1]["runId"] if page else None
            page = self.stack.graphql(query, cursor=cursor)["runsOrError"]["results"]
            found += page
        attempts = defaultdict(list)
        for run in reversed(found):
            tags = {tag["key"]: tag["value"] for tag in run["tags"]}
            attempts[tags["chaos"]].append({**run, "tags": tags})
        return attempts

    def works(self):
        """Whether each service runs, and the code location is loaded.

        The engine's health of a service can lag behind by a minute, the interval of its check.
        """
        states = self.stack.services().values()
        runs = all(state["State"] == "running" or health.is_done(state) for state in states)
        return runs and not health.location_errors(self.stack)

    def has_recovered(self, last):
        """Whether all is healthy, and the runs requested until then have ended or go on."""
        try:
            if not self.works():
                return False
            attempts = self.runs()
        except (StackError, ValueError, TypeError):  # no answer, or half of one
            return False
        alive = self.stack.run_containers(running_only=True)
        for number in range(1, last + 1):
            # One that is being requested has no run yet.
            for run in attempts[f"r{number}"][-1:]:
                if run["status"] in ("NOT_STARTED", "QUEUED", *FINAL):
                    # The daemon launches the next attempt.
                    is_last = run["tags"].get("dagster/will_retry") == "false"
                    if run["status"] == "FAILURE" and not is_last:
                        return False
                elif run["runId"] not in alive:
                    return False
        return True

    def counted(self, files="r*"):
        """The lines of the external counter, by request."""
        where = f"--volume={self.stack.name}_code_location-data:/data:ro"
        image = self.stack.config["services"]["code_location"]["image"]
        read = f"cd /data/data/chaos && grep -H '' {files}"
        text = docker("run", "--rm", "--network=none", where, image, "sh", "-c", read)
        lines = defaultdict(list)
        for line in text.splitlines():
            number, _, what = line.partition(":")
            lines[number].append(what)
        return lines

    def facts(self, number, runs):
        """All that is known of the attempts of a request, for the report of a failed test."""
        for run in runs:
            print(f"\n{number} {run}")
            kept = "timestamp, dagster_event_type, event::json ->> 'user_message'"
            rows = f"SELECT {kept} FROM event_logs WHERE run_id = '{run['runId']}' ORDER BY id"
            print("\n".join(self.stack.sql(rows)))
            logs = self.stack.compose("logs", "--no-color", "--timestamps", "daemon").stdout
            print("\n".join(line for line in logs.splitlines() if run["runId"] in line))
        return number

    def ticks(self):
        """The minutes that the schedule was evaluated for, oldest first, and its ID."""
        which = {**SELECTOR, "name": SCHEDULE["scheduleName"]}
        state = self.stack.graphql(TICKS, which=which)["instigationStateOrError"]
        assert {tick["status"] for tick in state["ticks"]} <= {"SKIPPED", "STARTED"}, state
        return state["id"], sorted(round(tick["timestamp"]) // 60 for tick in state["ticks"])

    def settle(self):
        """Ends the traffic, and waits until every run has ended; returns how long, in seconds."""
        self.traffic.end()
        last = self.traffic.requests
        over = time.monotonic()
        wait_until(lambda: self.has_recovered(last), "the recovery from all", 300)
        seconds = time.monotonic() - over
        print(f"all recovered after {seconds:.0f} s", flush=True)

        def all_ended():
            attempts = self.runs().values()
            return all(run["status"] in FINAL for runs in attempts for run in runs)

        # Many can be in the queue now.
        wait_until(all_ended, "every run to end", 900)
        wait_until(lambda: self.has_recovered(last), "the last retries", 300)
        wait_until(all_ended, "every run to end", 300)
        wait_until(self.stack.is_healthy, "every service to be healthy")
        return seconds

    def check(self):
        """What must hold when everything has settled."""
        stack = self.stack
        attempts, counted = self.runs(), self.counted()
        assert set(attempts) == {f"r{n}" for n in range(1, self.traffic.requests + 1)}
        for number, made in attempts.items():
            # Not those that an error of the API kept out of the queue: nothing of them executes.
            runs = [run for run in made if not never_queued(run)]
            assert not {run["runId"] for run in made if never_queued(run)} & {
                line.split()[0] for line in counted[number]
            }, (number, made)
            statuses = [run["status"] for run in runs]
            # Launched once; again only after a failure, at most twice.
            roots = {run["tags"].get("dagster/root_run_id", run["runId"]) for run in runs}
            assert len(roots) == 1, self.facts(number, made)
            assert statuses[:-1] == ["FAILURE"] * (len(runs) - 1), self.facts(number, runs)
            most = 1 if number in self.not_retried else 3
            assert statuses[-1] == "SUCCESS" or len(runs) == most, self.facts(number, runs)
            # No run executes a step twice, and no two attempts execute at the same time.
            lines = counted[number]
            assert len(set(lines)) == len(lines), (number, lines)
            one_by_one = [run for run, _ in groupby(line.split()[0] for line in lines)]
            assert len(set(one_by_one)) == len(one_by_one), (number, lines)
            if statuses[-1] == "SUCCESS":
                assert [line.split()[1] for line in lines].count("end") >= 1, (number, lines)
            for run in runs:
                if run["status"] == "FAILURE":
                    said = stack.said_of(run["runId"])
                    assert any(reason in said for reason in REASONS), self.facts(number, runs)
        assert not stack.run_containers(running_only=True)
        claims = "SELECT count(*) FROM {} WHERE run_id IS NOT NULL"
        for table in ("concurrency_slots", "pending_steps"):
            wait_until(lambda t=table: stack.sql(claims.format(t)) == ["0"], f"{table} to be free")
        schedule, minutes = self.ticks()
        stack.graphql(SWITCH_OFF, id=schedule)
        assert minutes == list(range(minutes[0], minutes[-1] + 1)), "lost or doubled ticks"
        assert minutes[0] <= self.began // 60 + 1
        assert minutes[-1] >= time.time() // 60 - 1
        # What is stored can be read.
        stack.run("__ASSET_JOB", assets=["chaos_length"], config={
            "ops": {"chaos_length": {"config": {"number": "last"}}}})  # fmt: skip
        return attempts


def never_queued(run):
    """Whether a run ended because its launch got an error, at once or late.

    See control_plane/launcher/images.py and control_plane/monitoring.py.
    """
    tags = run["tags"]
    return "docker/max_retries_before" in tags and "docker/container_id" not in tags


def random_faults(chaos, is_over, pause, seed, only=None):
    """Faults in random order, without waiting for the recovery; returns how many of each.

    Args:
        chaos: The stack.
        is_over: Says when to end.
        pause: The time between two, in seconds.
        seed: Of the order.
        only: These faults. The default is all.
    """
    faults = {
        **{f"{service} killed": lambda s=service: kill(chaos.stack, s) for service in SERVICES},
        "any run killed": chaos.kill_any_run,
        "code server hung for 3 s": lambda: chaos.hang_code_server(3),
        "code server gone for 3 s": lambda: chaos.away("code_location", 3),
        "Postgres away for 3 s": lambda: chaos.away("postgres", 3),
        "everything killed": chaos.kill_everything,
        "a waiting container killed": lambda: docker("kill", chaos.stack.sql(WAITING)[0]),
    }
    weights = {**dict.fromkeys(faults, 3), "any run killed": 6}
    weights |= dict.fromkeys([one for one in faults if one.endswith(" for 3 s")], 1)
    weights["everything killed"] = 1
    wanted = only or list(faults)
    chooser, made = random.Random(seed), defaultdict(int)  # noqa: S311
    while not is_over():
        (fault,) = chooser.choices(wanted, [weights[one] for one in wanted])
        try:
            faults[fault]()
            made[fault] += 1
        except (StackError, IndexError, ValueError) as error:
            # The fault before is not over: there is no container to kill, for example.
            print(f"{fault}: not possible now: {str(error)[:200]!r}", flush=True)
        time.sleep(pause)
    return made
