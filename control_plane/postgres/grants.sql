-- The rights of each role on the tables. `migrate` runs this file as the owner of the tables, at every
-- start, in one transaction. Only the owner can use tables that are not listed here.

REVOKE ALL ON ALL TABLES IN SCHEMA public FROM dagster_control, dagster_code, dagster_viewer;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA public FROM dagster_control, dagster_code, dagster_viewer;

-- All roles may read everything: `context.instance` shows user code what the web UI shows.
GRANT SELECT ON
    runs, run_tags, snapshots, bulk_actions, backfill_tags, daemon_heartbeats, kvs, instance_info,
    event_logs, asset_keys, asset_event_tags, asset_check_executions, dynamic_partitions,
    concurrency_limits, concurrency_slots, pending_steps,
    instigators, jobs, job_ticks, asset_daemon_asset_evaluations,
    secondary_indexes, alembic_version
TO dagster_control, dagster_code, dagster_viewer;

-- dagster_control: web server and daemon. Everything that the web UI offers.
-- Deleting a run also deletes its tags (by the foreign key), its events and their tags.
GRANT INSERT, UPDATE, DELETE ON runs TO dagster_control;
GRANT INSERT, UPDATE ON run_tags, bulk_actions, daemon_heartbeats, kvs TO dagster_control;
GRANT INSERT ON snapshots, backfill_tags TO dagster_control;
GRANT INSERT, DELETE ON event_logs, asset_event_tags, dynamic_partitions TO dagster_control;
-- Wiping an asset updates its row and deletes the results of its checks.
GRANT INSERT, UPDATE ON asset_keys TO dagster_control;
GRANT INSERT, UPDATE, DELETE ON asset_check_executions TO dagster_control;
GRANT INSERT, UPDATE, DELETE ON concurrency_limits, concurrency_slots, pending_steps TO dagster_control;
GRANT INSERT, UPDATE, DELETE ON instigators, jobs, job_ticks, asset_daemon_asset_evaluations TO dagster_control;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO dagster_control;

-- dagster_code: code servers and run containers. Everything that the execution of steps writes. This
-- role cannot launch runs, switch schedules, or delete or wipe history.
GRANT UPDATE (run_body, status, start_time, end_time, update_timestamp, partition, partition_set) ON runs TO dagster_code;
GRANT INSERT, UPDATE ON run_tags TO dagster_code;
GRANT INSERT ON event_logs, asset_event_tags TO dagster_code;
-- Not wipe_timestamp, which hides all earlier events.
GRANT INSERT, UPDATE (last_materialization, last_run_id, last_materialization_timestamp, cached_status_data) ON asset_keys TO dagster_code;
GRANT INSERT, UPDATE ON asset_check_executions TO dagster_code;
-- context.instance.add_dynamic_partitions, delete_dynamic_partition
GRANT INSERT, DELETE ON dynamic_partitions TO dagster_code;
-- A step claims its own slot in a pool. The first step creates the pool.
GRANT INSERT, UPDATE, DELETE ON concurrency_limits, concurrency_slots, pending_steps TO dagster_code;
GRANT USAGE ON SEQUENCE
    run_tags_id_seq, event_logs_id_seq, asset_event_tags_id_seq, asset_keys_id_seq,
    asset_check_executions_id_seq, dynamic_partitions_id_seq,
    concurrency_limits_id_seq, concurrency_slots_id_seq, pending_steps_id_seq
TO dagster_code;

-- dagster_viewer: the read-only web server caches the status of partitions here.
GRANT UPDATE (cached_status_data) ON asset_keys TO dagster_viewer;

-- A role that can edit or requeue a queued run can launch any run. dagster_code therefore cannot
-- change a run that stays in the queue, and cannot put a run back into it. It can cancel a queued run.
-- Only once: these statements wait for a backup in progress, and all queries would wait behind them. A
-- policy that changes needs another name.
DO $$ BEGIN
    IF (SELECT relrowsecurity FROM pg_class WHERE oid = 'runs'::regclass)
        AND (SELECT count(*) = 3 FROM pg_policy WHERE polrelid = 'runs'::regclass
             AND polname IN ('control', 'read', 'code')) THEN
        RETURN;
    END IF;
    ALTER TABLE runs ENABLE ROW LEVEL SECURITY;
    DROP POLICY IF EXISTS control ON runs;
    DROP POLICY IF EXISTS read ON runs;
    DROP POLICY IF EXISTS code ON runs;
    CREATE POLICY control ON runs TO dagster_control USING (true);
    CREATE POLICY read ON runs FOR SELECT TO dagster_code, dagster_viewer USING (true);
    CREATE POLICY code ON runs FOR UPDATE TO dagster_code
        USING (true) WITH CHECK (status NOT IN ('NOT_STARTED', 'QUEUED'));
END $$;
