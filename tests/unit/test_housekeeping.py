"""Which run containers the daemon removes, and when."""

from unittest.mock import Mock

import pytest
from dagster import DagsterInstance, job, op
from docker.errors import APIError

from control_plane import housekeeping
from control_plane.housekeeping import BATCH, PAGE, Housekeeper, Keep

MINUTE, DAY = 60, 24 * 3600
KEEP = Keep(succeeded=10 * MINUTE, failed=7 * DAY, runs=None)


def house(instance, keep=KEEP, **warm):
    """A housekeeper. Warm containers are given by their label and their run, if they have one."""
    return Housekeeper(instance, keep, Mock(run_of=lambda: warm))


class FakeEngine:
    """The guard's answers to the housekeeper, and what it was told to do."""

    def __init__(self):
        self.listed = []
        self.removed = []
        self.stopped = []
        self.busy = []

    api = property(lambda self: self)

    def containers(self, *, all, limit, before=None):  # the SDK's name
        assert all
        names = [one["Id"] for one in self.listed]
        first = names.index(before) + 1 if before else 0
        return self.listed[first : first + limit]

    def stop(self, identifier):
        self.stopped.append(identifier)

    def remove_container(self, identifier, **options):
        assert options == {"v": True}
        if identifier in self.busy:
            raise APIError("removal is already in progress")
        self.removed.append(identifier)

    def add(self, identifier, run, state="exited"):
        labels = {"dagster/run_id": run}
        created = housekeeping.get_current_timestamp()
        one = {"Id": identifier, "State": state, "Created": created, "Labels": labels}
        self.listed.append(one)


@pytest.fixture
def engine(monkeypatch):
    fake = FakeEngine()
    monkeypatch.setattr(housekeeping.docker.client, "from_env", lambda: fake)
    return fake


@pytest.fixture
def instance():
    with DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def later(monkeypatch):
    """Moves the clock of the housekeeper."""

    def move(seconds):
        now = housekeeping.get_current_timestamp()
        monkeypatch.setattr(housekeeping, "get_current_timestamp", lambda: now + seconds)

    return move


@op
def work():
    pass


@op
def fail():
    raise RuntimeError("the pump is dry")


@job
def good():
    work()


@job
def bad():
    fail()


def run_of(instance, kind):
    """The ID of a run that has ended like this, or that has not."""
    if kind in ("good", "bad"):
        which = good if kind == "good" else bad
        return which.execute_in_process(instance=instance, raise_on_error=False).run_id
    run = instance.create_run_for_job(good)
    if kind == "canceled":
        instance.report_run_canceled(run)
    return run.run_id


@pytest.mark.parametrize(
    ("kind", "state", "age", "done"),
    [
        ("good", "exited", 9 * MINUTE, "kept"),
        ("good", "exited", 11 * MINUTE, "removed"),
        ("good", "dead", 11 * MINUTE, "removed"),
        ("bad", "exited", 6 * DAY, "kept"),
        ("bad", "exited", 8 * DAY, "removed"),
        ("bad", "created", 8 * DAY, "removed"),
        ("canceled", "exited", 6 * DAY, "kept"),
        ("canceled", "exited", 8 * DAY, "removed"),
        ("waiting", "exited", 900 * DAY, "kept"),
        ("waiting", "created", 900 * DAY, "kept"),
        ("waiting", "running", 900 * DAY, "kept"),
        # A container that outlives its run.
        ("good", "running", MINUTE / 2, "kept"),
        ("good", "running", 3 * MINUTE, "stopped"),
        ("good", "paused", 3 * MINUTE, "stopped"),
        ("good", "restarting", 3 * MINUTE, "stopped"),
    ],
)
def test_what_happens_to_a_container_follows_from_its_run_and_the_time_since(
    instance, engine, later, kind, state, age, done
):
    engine.add("one", run_of(instance, kind), state)
    later(age)
    house(instance).tidy()
    assert engine.removed == (["one"] if done == "removed" else [])
    assert engine.stopped == (["one"] if done == "stopped" else [])


def test_a_warm_container_stays_while_it_waits_and_is_then_the_one_of_its_run(
    instance, engine, later
):
    engine.add("waits", "a", "running")
    engine.add("has ended", "b")
    engine.add("nobody knows it", "c", "running")
    keeper = house(instance, a=None, b=run_of(instance, "good"))
    later(9 * MINUTE)
    keeper.tidy()
    assert (engine.removed, engine.stopped) == ([], ["nobody knows it"])
    later(11 * MINUTE)
    keeper.tidy()
    assert engine.removed == ["has ended"]
    keeper.warm.forget.assert_called_with(["a", "b", "c"])


def test_forever_is_forever(instance, engine, later):
    engine.add("one", run_of(instance, "good"))
    engine.add("other", run_of(instance, "bad"))
    later(9000 * DAY)
    house(instance, Keep(succeeded=None, failed=None, runs=None)).tidy()
    assert not engine.removed


def test_the_container_of_a_deleted_run_goes_soon(instance, engine, later):
    run = run_of(instance, "bad")
    engine.add("one", run)
    engine.add("other", run, "running")
    instance.delete_run(run)
    keeper = house(instance)
    keeper.tidy()
    assert (engine.removed, engine.stopped) == ([], [])
    later(3 * MINUTE)
    keeper.tidy()
    assert (engine.removed, engine.stopped) == (["one"], ["other"])


def test_the_container_of_a_run_that_is_deleted_after_its_end_goes_within_an_hour(
    instance, engine, later
):
    run = run_of(instance, "bad")
    engine.add("one", run)
    keeper = house(instance)
    keeper.tidy()
    instance.delete_run(run)
    later(59 * MINUTE)
    keeper.tidy()
    assert engine.removed == []
    later(2 * MINUTE)
    keeper.tidy()
    assert engine.removed == ["one"]


def test_a_round_has_an_end_and_what_is_kept_does_not_count(instance, engine, later):
    """One container that cannot be removed does not hold up the others."""
    kept, over = run_of(instance, "bad"), run_of(instance, "good")
    for number in range(BATCH):
        engine.add(f"kept-{number}", kept)
    for number in range(BATCH + 2):
        engine.add(f"over-{number}", over)
    engine.busy = ["over-0"]
    later(11 * MINUTE)
    keeper = house(instance)
    keeper.tidy()
    assert engine.removed == [f"over-{number}" for number in range(1, BATCH)]
    assert keeper.removed == BATCH - 1


def test_there_may_be_more_containers_than_a_page_of_the_list_has(instance, engine, later):
    kept = run_of(instance, "bad")
    for number in range(2 * PAGE):
        engine.add(f"kept-{number}", kept)
    engine.add("over", run_of(instance, "good"))
    later(11 * MINUTE)
    keeper = house(instance)
    keeper.tidy()
    assert engine.removed == ["over"]


def test_a_run_is_read_once_after_its_end_and_each_minute_before(instance, engine, monkeypatch):
    read = []
    records = instance.get_run_records
    monkeypatch.setattr(
        instance, "get_run_records",
        lambda wanted: read.append(wanted.run_ids) or records(wanted),
    )  # fmt: skip
    over, going_on = run_of(instance, "good"), run_of(instance, "waiting")
    engine.add("over", over)
    engine.add("going on", going_on, "running")
    keeper = house(instance)
    keeper.tidy()
    keeper.tidy()
    assert read == [sorted([over, going_on]), [going_on]]


def test_each_day_the_log_says_what_was_removed(instance, engine, later, caplog):
    caplog.set_level("INFO", housekeeping.logger.name)
    keeper = house(instance)
    keeper.tidy()
    assert not caplog.messages
    engine.add("one", run_of(instance, "good"))
    later(DAY)
    keeper.tidy()
    said = "removed 1 run containers and deleted 0 old runs in the last day"
    assert caplog.messages == [said]
    assert keeper.removed == 0


@pytest.mark.parametrize("value", ["", "10", "ten", "1.5h", "-1d", "10 m"])
def test_a_duration_that_is_none_is_refused_by_name(value):
    settings = {"KEEP_SUCCEEDED_CONTAINERS": "10m", "KEEP_FAILED_CONTAINERS": value}
    with pytest.raises(SystemExit, match=r"KEEP_FAILED_CONTAINERS=.* use 10m, 12h, 7d or forever"):
        Keep.from_environment(settings)
