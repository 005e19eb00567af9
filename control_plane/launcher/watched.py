"""What the run monitoring (monitoring.py) asks of a run launcher, on a machine or a cluster."""

from abc import abstractmethod
from typing import ClassVar

from dagster._core.launcher import RunLauncher
from dagster._core.storage.dagster_run import DagsterRun

from control_plane.code_server.usage import do_not_retry


class WatchedLauncher(RunLauncher):
    """A run launcher that can say, and end, where a run executes.

    Attributes:
        WORKER_TAG: The tag of a run that names its container or Job.
        launching: The runs whose containers this process creates now.
    """

    WORKER_TAG: ClassVar[str]
    launching: ClassVar[set[str]]

    @abstractmethod
    def stop(self, run: DagsterRun) -> None:
        """Ends the container of a run that is over, or that is launched again."""

    def reaches_its_engine(self) -> bool:
        """Whether this process can start runs. On one machine, no other process could do more."""
        return True

    def do_not_retry(self, run: DagsterRun) -> None:
        """For a run that would fail again in the same way."""
        tags = do_not_retry(self._instance, run)
        if tags:
            self._instance.add_run_tags(run.run_id, tags)
