-- What each role may do with the tables. `migrate` runs this as their owner, after each upgrade of the
-- schema, whole or not at all. A table that is not in here nobody else can use.

REVOKE ALL ON ALL TABLES IN SCHEMA public FROM dagster_control, dagster_code, dagster_viewer;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA public FROM dagster_control, dagster_code, dagster_viewer;

-- Reading is for all of them: `context.instance` shows user code what the web UI shows.
GRANT SELECT ON
    runs, run_tags, snapshots, bulk_actions, backfill_tags, daemon_heartbeats, kvs, instance_info,
    event_logs, asset_keys, asset_event_tags, asset_check_executions, dynamic_partitions,
    concurrency_limits, concurrency_slots, pending_steps,
    instigators, jobs, job_ticks, asset_daemon_asset_evaluations,
    secondary_indexes, alembic_version
TO dagster_control, dagster_code, dagster_viewer;

-- dagster_control: webserver and daemon, all that the web UI offers.
-- A run is deleted with its tags (by the foreign key), its events and their tags.
GRANT INSERT, UPDATE, DELETE ON runs TO dagster_control;
GRANT INSERT, UPDATE ON run_tags, bulk_actions, daemon_heartbeats, kvs TO dagster_control;
GRANT INSERT ON snapshots, backfill_tags TO dagster_control;
GRANT INSERT, DELETE ON event_logs, asset_event_tags, dynamic_partitions TO dagster_control;
-- To wipe an asset is to update its row and delete the results of its checks.
GRANT INSERT, UPDATE ON asset_keys TO dagster_control;
GRANT INSERT, UPDATE, DELETE ON asset_check_executions TO dagster_control;
GRANT INSERT, UPDATE, DELETE ON concurrency_limits, concurrency_slots, pending_steps TO dagster_control;
GRANT INSERT, UPDATE, DELETE ON instigators, jobs, job_ticks, asset_daemon_asset_evaluations TO dagster_control;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO dagster_control;

-- dagster_code: code servers and run containers, what executing steps writes. It launches no
-- runs, switches no schedule, and deletes or wipes no history.
GRANT UPDATE (run_body, status, start_time, end_time, update_timestamp, partition, partition_set) ON runs TO dagster_code;
GRANT INSERT, UPDATE ON run_tags TO dagster_code;
GRANT INSERT ON event_logs, asset_event_tags TO dagster_code;
-- Without wipe_timestamp, which hides all that was before.
GRANT INSERT, UPDATE (last_materialization, last_run_id, last_materialization_timestamp, cached_status_data) ON asset_keys TO dagster_code;
GRANT INSERT, UPDATE ON asset_check_executions TO dagster_code;
-- context.instance.add_dynamic_partitions, delete_dynamic_partition
GRANT INSERT, DELETE ON dynamic_partitions TO dagster_code;
-- A step takes its place in a pool by itself, and makes the pool if it is the first.
GRANT INSERT, UPDATE, DELETE ON concurrency_limits, concurrency_slots, pending_steps TO dagster_code;
GRANT USAGE ON SEQUENCE
    run_tags_id_seq, event_logs_id_seq, asset_event_tags_id_seq, asset_keys_id_seq,
    asset_check_executions_id_seq, dynamic_partitions_id_seq,
    concurrency_limits_id_seq, concurrency_slots_id_seq, pending_steps_id_seq
TO dagster_code;

-- dagster_viewer: the read-only webserver keeps what it has summed up about partitions here.
GRANT UPDATE (cached_status_data) ON asset_keys TO dagster_viewer;

-- A run that may be rewritten while it is queued, or put back into the queue, is a run launched.
ALTER TABLE runs ENABLE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS control ON runs;
DROP POLICY IF EXISTS read ON runs;
DROP POLICY IF EXISTS code ON runs;
CREATE POLICY control ON runs TO dagster_control USING (true);
CREATE POLICY read ON runs FOR SELECT TO dagster_code, dagster_viewer USING (true);
CREATE POLICY code ON runs FOR UPDATE TO dagster_code
    USING (true) WITH CHECK (status NOT IN ('NOT_STARTED', 'QUEUED'));
