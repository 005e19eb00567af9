"""What a run notes of its memory, CPU time and wall time, and the limits proposed from it."""

import threading
from unittest.mock import Mock

import pytest
from dagster import DagsterEvent, DagsterRun
from dagster._core.events import RunFailureReason
from dagster._utils.error import SerializableErrorInfo

from control_plane.code_server.usage import Notes, Usage, _name_killed_processes
from support.cli import proposed

MIB = 2**20


@pytest.fixture
def version_1(tmp_path):
    """A control group as a kernel with version 1 shows it."""
    (tmp_path / "memory").mkdir()
    (tmp_path / "cpuacct").mkdir()
    stat = f"cache {900 * MIB}\nrss 1\ntotal_rss {200 * MIB}\ntotal_shmem {50 * MIB}\n"
    (tmp_path / "memory/memory.stat").write_text(stat)
    (tmp_path / "memory/memory.limit_in_bytes").write_text(f"{2**30}\n")
    (tmp_path / "memory/memory.oom_control").write_text("oom_kill_disable 0\noom_kill 1\n")
    (tmp_path / "cpuacct/cpuacct.usage").write_text("2500000000\n")
    return tmp_path


@pytest.fixture
def version_2(tmp_path):
    """A control group as a kernel with version 2 shows it."""
    (tmp_path / "memory.stat").write_text(f"anon {200 * MIB}\nfile {900 * MIB}\nshmem {50 * MIB}\n")
    (tmp_path / "memory.max").write_text(f"{2**30}\n")
    (tmp_path / "memory.events").write_text("low 0\nmax 12\noom 1\noom_kill 1\n")
    (tmp_path / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 2000000\n")
    return tmp_path


@pytest.fixture(params=["version_1", "version_2"])
def group(request):
    return request.getfixturevalue(request.param)


def test_memory_counts_what_the_kernel_cannot_take_back_and_not_the_page_cache(group):
    tags = Usage(group).tags()
    assert tags["docker/memory_peak"] == "250 MiB of 1024 MiB"
    assert tags["docker/cpu_time"] == "2.5 s"
    assert float(tags["docker/wall_time"].removesuffix(" s")) > 0


def test_a_process_that_was_killed_for_its_memory_is_known(group):
    assert Usage(group).killed() == 1


@pytest.mark.parametrize(
    ("error", "said", "tags"),
    [
        ("In process 9: ChildProcessCrashException", "It is not launched again", {"0"}),
        ("the pump is dry", "That may be why it failed", set()),
    ],
)
def test_only_a_run_that_failed_by_a_process_killed_for_its_memory_is_not_launched_again(
    group, error, said, tags
):
    noted, run = {}, DagsterRun(job_name="job")
    instance = Mock(run_retries_max_retries=2, **{"get_run_by_id.return_value": run})
    storage = Mock(_instance=instance)
    storage.add_run_tags.side_effect = lambda _, new: noted.update(new)
    info = SerializableErrorInfo(error, [], "DagsterSubprocessError")
    event = DagsterEvent.job_failure("job", "failed", RunFailureReason.RUN_EXCEPTION, info)
    _name_killed_processes(Usage(group), storage, run.run_id, event)
    (message,) = instance.report_engine_event.call_args.args
    assert "1024 MiB" in message
    assert said in message
    assert {noted[key] for key in noted if key == "dagster/max_retries"} == tags


def test_the_peak_stays_when_memory_is_given_back(version_2):
    usage = Usage(version_2)
    usage.sample()
    (version_2 / "memory.stat").write_text(f"anon {10 * MIB}\nshmem 0\n")
    assert usage.tags()["docker/memory_peak"] == "250 MiB of 1024 MiB"


def test_without_a_limit_none_is_named(version_2):
    (version_2 / "memory.max").write_text("max\n")
    assert Usage(version_2).tags()["docker/memory_peak"] == "250 MiB"


def test_without_a_limit_none_is_named_by_version_1_either(version_1):
    (version_1 / "memory/memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert Usage(version_1).tags()["docker/memory_peak"] == "250 MiB"


def test_a_run_notes_its_figures_while_it_goes_on_and_once_at_its_end(version_2, monkeypatch):
    monkeypatch.setattr("control_plane.code_server.usage.INTERVAL_SECONDS", 0.001)
    monkeypatch.setattr("control_plane.code_server.usage.FIRST_NOTE_SECONDS", 0.002)
    noted = threading.Event()
    note = Mock(side_effect=noted.set)
    notes = Notes(Usage(version_2), note)
    notes.start()
    assert noted.wait(30)
    notes.end()
    calls = note.call_count
    notes.end()
    assert note.call_count == calls
    assert not notes.is_alive()


def test_figures_that_cannot_be_noted_do_not_fail_the_run(version_2):
    notes = Notes(Usage(version_2), Mock(side_effect=RuntimeError("the run was deleted")))
    notes.start()
    notes.end()


@pytest.mark.parametrize(
    ("memory", "limit", "megabytes"),
    [
        (20, 1024, 128),
        (200, 1024, 320),
        (1024, 1024, 2048),  # it was killed, or nearly
        (500, None, 768),
    ],
)
def test_a_proposed_limit_has_room_above_the_highest_use(memory, limit, megabytes):
    assert proposed(memory, limit) == megabytes
