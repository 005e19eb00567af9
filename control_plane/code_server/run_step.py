"""In a container of its own: executes one step of an earlier run again, and stores nothing.

The gap: Dagster executes a step again as a new run only, which stores outputs and events, and in
which no debugger can be opened. Here the step belongs to an instance in memory. Inputs are read
where the run left them, and outputs are printed. On a terminal an exception opens pdb. This module
could be deleted if `dagster job execute` could do that.

    python -m control_plane.code_server.run_step ARGUMENTS-OF-THE-RUN STEP
"""

import code
import pdb
import shutil
import sys
from collections.abc import Iterator
from typing import Any, cast

from dagster import DagsterEvent, DagsterInstance, Output
from dagster._core.execution.api import ExecuteRunWithPlanIterable, create_execution_plan
from dagster._core.execution.context.system import StepExecutionContext
from dagster._core.execution.context_creation_job import PlanExecutionContextManager
from dagster._core.execution.plan import execute_step
from dagster._core.execution.plan.execute_plan import inner_plan_execution_iterator
from dagster._core.execution.plan.outputs import StepOutputHandle
from dagster._core.execution.plan.state import KnownExecutionState
from dagster._core.execution.retries import RetryMode
from dagster._core.storage.dagster_run import DagsterRun
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import deserialize_value
from dagster._utils.hosted_user_process import recon_job_from_origin

from control_plane.code_server.put_in import DATA

# Where the files of runs are mounted, read-only. The step gets a copy in their place.
DATA_OF_RUNS = DATA.with_name("data-of-runs")
# The default I/O manager reads inputs below it.
ARTIFACTS = str(DATA.parent)


class Again:
    """One step of an earlier run. To call it executes the step."""

    def __init__(self, run: DagsterRun, state: KnownExecutionState, step: str) -> None:
        """Executes nothing yet.

        Args:
            run: The earlier run.
            state: Which of its outputs have been stored.
            step: The key of the step.

        Raises:
            SystemExit: The run has no such step.
        """
        self.instance = DagsterInstance.ephemeral(ARTIFACTS)  # pyright: ignore[reportUnknownMemberType] # upstream's
        self.run = run
        self.outputs: dict[str, Any] = {}
        origin = run.job_code_origin
        assert origin  # noqa: S101 # the run has been launched
        job = recon_job_from_origin(origin)
        if run.resolved_op_selection or run.asset_selection or run.asset_check_selection:
            job = job.get_subset(
                op_selection=run.resolved_op_selection,
                asset_selection=run.asset_selection,
                asset_check_selection=run.asset_check_selection,
            )
        self.job = job
        whole = create_execution_plan(job, run.run_config, known_state=state)
        steps = list(whole.get_all_step_deps())
        if step not in steps:
            sys.exit(f"the run has no step {step!r}, but {', '.join(steps)}")
        self.plan = create_execution_plan(
            job,
            run.run_config,
            step_keys_to_execute=[step],
            known_state=state.update_for_step_selection([step]),  # pyright: ignore[reportUnknownMemberType] # upstream's
            tags=run.tags,
        )

    def __call__(self) -> None:
        """Executes the step, and prints its outputs. An exception of its code is raised."""
        again = self.instance.create_run_for_job(
            self.job.get_definition(),
            execution_plan=self.plan,
            run_config=self.run.run_config,
            tags=self.run.tags,
            parent_run_id=self.run.run_id,
            root_run_id=self.run.root_run_id or self.run.run_id,
        )
        manager = PlanExecutionContextManager(
            job=self.job,
            execution_plan=self.plan,
            run_config=self.run.run_config,
            dagster_run=again,
            instance=self.instance,
            retry_mode=RetryMode.DISABLED,
            raise_on_error=True,
        )
        execute_step._store_output = self._show  # pyright: ignore[reportPrivateUsage] # every I/O manager's way
        for _ in ExecuteRunWithPlanIterable(self.plan, inner_plan_execution_iterator, manager):
            pass

    def _show(
        self, _: StepExecutionContext, handle: StepOutputHandle, output: Output[object]
    ) -> Iterator[DagsterEvent]:
        """Takes the place of storing an output."""
        self.outputs[handle.output_name] = output.value
        print(f"{handle.output_name} = {output.value!r} (not stored)", flush=True)
        yield from ()


def main() -> None:
    """Ends with status 1 when the step fails. On a terminal, an interactive session comes first."""
    arguments = deserialize_value(sys.argv[1], ExecuteRunArgs)
    # The step can write there, and nobody else reads it.
    if DATA_OF_RUNS.is_dir():
        try:
            shutil.copytree(DATA_OF_RUNS, DATA, symlinks=True, dirs_exist_ok=True)
        except shutil.Error as error:  # a FIFO, for example
            print(f"not copied: {error}")
    with DagsterInstance.from_ref(cast("Any", arguments.instance_ref)) as instance:
        run = instance.get_run_by_id(arguments.run_id)
        if run is None:
            sys.exit(f"run {arguments.run_id} has been deleted")
        state = KnownExecutionState.build_for_reexecution(instance, run)
    step = Again(run, state, sys.argv[2])
    interactive = sys.stdin.isatty()
    try:
        step()
    except Exception:
        if not interactive:
            raise
        print("the step has failed: this is pdb, `w` shows where, `p NAME` a value, `q` ends it")
        pdb.post_mortem()
        sys.exit(1)
    if interactive:
        names = {"step": step, "outputs": step.outputs}
        code.interact(
            "step() executes it again, outputs has what it returned, Ctrl-D ends", local=names
        )


if __name__ == "__main__":
    main()
