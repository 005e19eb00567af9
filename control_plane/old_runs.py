"""Deletes runs that ended long ago, with their events, step logs and stored outputs (KEEP_RUNS).

The gap: Dagster deletes old ticks and never a run. A run whose deletion would lose something else
stays: it has the newest event of an asset or of one of its partitions, or the newest result of an
asset check, or it is the newest run of a partition of its job, or its backfill goes on, or a run
that repeats it is still there and may read its outputs. A run that a sensor launched with a run key
loses its events and files only: without the run, the sensor would launch it again. This module
could be deleted if `retention` in dagster.yaml had a section for runs.
"""

import logging
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from dagster import DagsterInstance
from dagster._core.storage.dagster_run import FINISHED_STATUSES, DagsterRun, RunsFilter
from dagster._core.storage.event_log import SqlEventLogStorage
from dagster._core.storage.tags import RUN_KEY_TAG, SENSOR_NAME_TAG
from sqlalchemy import TextClause, text

from control_plane.code_server import object_store
from control_plane.guard.policy import RUN_ID

# In one round, a minute: 144,000 a day.
BATCH = 100
# Between two passes over all old runs.
PASS_SECONDS = 24 * 3600
NEEDED = text("""
SELECT run_id FROM event_logs e WHERE run_id = ANY(:runs) AND asset_key IS NOT NULL
AND NOT EXISTS (SELECT FROM event_logs n WHERE n.asset_key = e.asset_key
    AND n.dagster_event_type = e.dagster_event_type AND n.id > e.id AND n.partition = e.partition)
AND NOT (e.partition IS NULL AND EXISTS (SELECT FROM event_logs n WHERE n.asset_key = e.asset_key
    AND n.dagster_event_type = e.dagster_event_type AND n.id > e.id AND n.partition IS NULL))
UNION
SELECT run_id FROM asset_check_executions e WHERE run_id = ANY(:runs)
AND NOT EXISTS (SELECT FROM asset_check_executions n WHERE n.asset_key = e.asset_key
    AND n.check_name = e.check_name AND n.id > e.id
    AND n.partition IS NOT DISTINCT FROM e.partition)
UNION
SELECT run_id FROM runs e JOIN run_tags mine USING (run_id)
WHERE run_id = ANY(:runs) AND e.partition IS NOT NULL AND mine.key = '.dagster/repository'
AND NOT EXISTS (SELECT FROM runs n JOIN run_tags its USING (run_id)
    WHERE n.pipeline_name = e.pipeline_name AND n.partition = e.partition AND n.id > e.id
    AND its.key = mine.key AND its.value = mine.value)
UNION
SELECT run_id FROM run_tags t JOIN bulk_actions b ON b.key = t.value
WHERE run_id = ANY(:runs) AND t.key = 'dagster/backfill'
AND b.status IN ('REQUESTED', 'CANCELING', 'FAILING')
UNION
SELECT value FROM run_tags
WHERE value = ANY(:runs) AND key IN ('dagster/parent_run_id', 'dagster/root_run_id')
""")
WITH_EVENTS = text("""
SELECT run_id FROM unnest(CAST(:runs AS text[])) AS old (run_id)
WHERE EXISTS (SELECT FROM event_logs e WHERE e.run_id = old.run_id)
""")

# Why such a run has no events.
EMPTIED_TAG = "docker/events"

logger = logging.getLogger("dagster.daemon.Housekeeper")


class OldRuns:
    """Goes over the old runs once a day, a batch at a time, from the oldest to the newest."""

    def __init__(self, instance: DagsterInstance, keep_seconds: float | None) -> None:
        """Does nothing yet.

        Args:
            instance: The instance.
            keep_seconds: How long a run stays after its end. None is forever.
        """
        self.instance = instance
        self.keep_seconds = keep_seconds
        self.deleted = 0
        self.next_pass_at = float("-inf")
        # In a pass, the last run that stays. The runs before it have been deleted, or stay as well.
        self.cursor: str | None = None

    def tidy(self, now: float) -> None:
        """One round: a batch, if a pass is due or not over yet.

        Args:
            now: The time, in seconds since 1970.
        """
        if self.keep_seconds is None or now < self.next_pass_at:
            return
        before = datetime.fromtimestamp(now - self.keep_seconds, UTC)
        records = self.instance.get_run_records(
            # A run container can change when a run was updated, and not when it was created.
            RunsFilter(statuses=FINISHED_STATUSES, updated_before=before, created_before=before),
            limit=BATCH,
            cursor=self.cursor,
            ascending=True,
        )
        runs = [record.dagster_run for record in records]
        needed, filled = self._select(NEEDED, runs), self._select(WITH_EVENTS, runs)
        for run in runs:
            is_keyed = {SENSOR_NAME_TAG, RUN_KEY_TAG} <= run.tags.keys()
            stays = run.run_id in needed or is_keyed
            if run.run_id not in needed and (run.run_id in filled or not is_keyed):
                if self._delete_files(run.run_id):
                    self._delete(run.run_id, whole=not is_keyed)
                else:
                    stays = True
            if stays:
                self.cursor = run.run_id
        if len(runs) < BATCH:
            self.cursor, self.next_pass_at = None, now + PASS_SECONDS

    def _select(self, query: TextClause, runs: Sequence[DagsterRun]) -> set[str]:
        """Those of some runs that a query finds."""
        storage = cast("SqlEventLogStorage", self.instance.event_log_storage)
        with storage.index_connection() as connection:
            found = connection.execute(query, {"runs": [run.run_id for run in runs]})
            return {row[0] for row in found}

    def _delete_files(self, run_id: str) -> bool:
        """Deletes step logs and outputs. Runs write them, so anything can be in their place."""
        if not RUN_ID.fullmatch(run_id):
            return True
        try:
            self.instance.compute_log_manager.delete_logs(prefix=[run_id])
            outputs = Path(self.instance.storage_directory()) / run_id
            if outputs.is_dir():
                shutil.rmtree(outputs)
            store = object_store.configured()
            if store:
                store.delete_below(object_store.OUTPUTS, run_id)
        except Exception:  # of any kind of store
            logger.exception("the files of run %s cannot be deleted, and it stays", run_id)
            return False
        return True

    def _delete(self, run_id: str, *, whole: bool) -> None:
        """Deletes what Postgres has, after the files. A later pass finds a run without files."""
        self.instance.event_log_storage.delete_events(run_id)
        if whole:
            self.instance.delete_run(run_id)
        else:
            self.instance.add_run_tags(run_id, {EMPTIED_TAG: "deleted, KEEP_RUNS in .env"})
        self.deleted += 1
