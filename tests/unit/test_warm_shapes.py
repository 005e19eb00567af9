"""Which run may use a container that was made for another one."""

import json
from dataclasses import replace

import pytest
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.instance.ref import InstanceRef
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from dagster._grpc.types import ExecuteRunArgs, ResumeRunArgs
from dagster_docker.container_context import DockerContainerContext

from control_plane.guard.policy import WAIT_FOR_RUN, is_command
from control_plane.launcher.shapes import shape_of


@pytest.fixture
def command(tmp_path):
    instance = InstanceRef.from_dir(str(tmp_path))

    def of(job="a", run="1", module="served", kind=ExecuteRunArgs):
        code = ModuleCodePointer(module, "defs", "/opt/code")
        origin = JobPythonOrigin(
            job, RepositoryPythonOrigin("python", code, entry_point=["dagster"])
        )
        return kind(origin, run, instance).get_command_args()

    return of


CONTEXT = DockerContainerContext(
    networks=["runs"], env_vars=["A=1"], container_kwargs={"mem_limit": "1g", "stop_timeout": 30}
)


def test_two_runs_of_the_same_code_location_may_whatever_their_jobs_are(command):
    one = shape_of("code", "sha256:1", command("a", "1"), CONTEXT)
    other = shape_of("code", "sha256:1", command("b", "2"), CONTEXT)
    assert one.fits == other.fits


@pytest.mark.parametrize(
    "other",
    [
        {"image": "sha256:2"},
        {"environment": {"A": "2"}},
        {"network": "others"},
        {"kwargs": {"mem_limit": "2g"}},
    ],
)
def test_what_differs_in_anything_that_a_container_has_does_not_fit(command, other):
    one = shape_of("code", "sha256:1", command(), CONTEXT)
    assert replace(one, **other).fits != one.fits


def test_other_code_and_another_instance_do_not_fit(command):
    one = shape_of("code", "sha256:1", command(), CONTEXT)
    assert shape_of("code", "sha256:1", command(module="other"), CONTEXT).fits != one.fits
    like = json.loads(one.like)
    like["instance_ref"]["settings"] = {"telemetry": {"enabled": False}}
    assert replace(one, like=json.dumps(like)).fits != one.fits


def test_a_run_that_is_resumed_gets_a_new_container(command):
    resume = command(kind=ResumeRunArgs)
    assert resume[:3] == ["dagster", "api", "resume_run"]
    assert shape_of("code", "sha256:1", resume, CONTEXT) is None


def test_the_guard_knows_the_command(command):
    assert is_command([*WAIT_FOR_RUN, "{}"])
    assert not is_command([*WAIT_FOR_RUN])
