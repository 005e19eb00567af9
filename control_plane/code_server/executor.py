"""The executor of projects that name none: Dagster's in-process executor, and one more message.

The gap: a run can write to its data folders and to /tmp only. Python reports "Read-only file
system", and nothing says which folders there are. This module could be deleted if Dagster had hooks
for all jobs of a code location.
"""

import re
from collections.abc import Iterator
from typing import Any, cast

from dagster import DagsterEvent, Executor, InitExecutorContext, executor, in_process_executor
from dagster._core.events import EngineEventData
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.execution.retries import RetryMode

from control_plane.code_server.put_in import DATA, PROJECT

REFUSED_WRITE = re.compile(r"Read-only file system: '([^']*)'")


class InContainer(Executor):
    """Executes the steps one after the other, in the process of the run."""

    def __init__(self, inner: Executor) -> None:
        """Wraps Dagster's."""
        self.inner = inner

    @property
    def retries(self) -> RetryMode:
        """How steps are retried."""
        return self.inner.retries

    def execute(
        self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan
    ) -> Iterator[DagsterEvent]:
        """Executes the plan. Adds an event after a step that was refused to write a file."""
        for event in self.inner.execute(plan_context, execution_plan):
            yield event
            error = event.step_failure_data.error if event.is_step_failure else None
            refused = REFUSED_WRITE.search(error.to_string()) if error else None
            if refused:
                yield DagsterEvent.engine_event(plan_context, advice(refused[1]), EngineEventData())


def advice(path: str) -> str:
    """What to do when code cannot write to a path."""
    links = (link for link in PROJECT.rglob("*") if link.is_symlink())
    folders = [
        str(link.relative_to(PROJECT)) for link in links if link.readlink().is_relative_to(DATA)
    ]
    return (
        f"{path} cannot be written: a run writes to {', '.join(sorted(folders))} of its project and"
        " to /tmp. To add a folder, name all of them in CODE_DATA, then make up"
        " (docs/how-to/move-your-project-in.md)"
    )


@executor(name="in_process", config_schema=cast("Any", in_process_executor.config_schema))
def in_container(init_context: InitExecutorContext) -> Executor:
    """Dagster's in-process executor, by the same name and with the same configuration."""
    create = in_process_executor.executor_creation_fn
    assert create  # noqa: S101 # for the type checker
    return InContainer(create(init_context))
