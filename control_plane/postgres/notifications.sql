-- Wakes the queue in the daemon (calls.py) when a run is put into it, and when a slot becomes free:
-- a run ends or is deleted, a step leaves a pool, a pool gets more slots. Wakes the sensors when a run
-- ends, and when an asset has a new event. Wakes the backfills when there is a new one, and when one is
-- canceled. `migrate` runs this file after Dagster has made the tables.

-- Its argument is the channel.
CREATE OR REPLACE FUNCTION wake() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_notify(TG_ARGV[0], '');
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER wake_queue AFTER INSERT OR UPDATE OF status ON runs FOR EACH ROW
    WHEN (NEW.status IN ('QUEUED', 'SUCCESS', 'FAILURE', 'CANCELED'))
    EXECUTE FUNCTION wake('dagster_queue');
CREATE OR REPLACE TRIGGER wake_queue_of_deleted AFTER DELETE ON runs FOR EACH ROW
    EXECUTE FUNCTION wake('dagster_queue');

CREATE OR REPLACE TRIGGER wake_queue AFTER INSERT OR UPDATE ON concurrency_slots FOR EACH ROW
    WHEN (NEW.run_id IS NULL)
    EXECUTE FUNCTION wake('dagster_queue');
-- A step leaves its pool in two transactions. This is the second one.
CREATE OR REPLACE TRIGGER wake_queue AFTER DELETE ON pending_steps FOR EACH ROW
    EXECUTE FUNCTION wake('dagster_queue');

CREATE OR REPLACE TRIGGER wake_sensors AFTER INSERT OR UPDATE OF status ON runs FOR EACH ROW
    WHEN (NEW.status IN ('SUCCESS', 'FAILURE', 'CANCELED'))
    EXECUTE FUNCTION wake('dagster_sensors');
CREATE OR REPLACE TRIGGER wake_sensors AFTER INSERT OR UPDATE OF last_materialization ON asset_keys
    FOR EACH ROW EXECUTE FUNCTION wake('dagster_sensors');

-- Not at each update: the daemon writes its progress here, and would wake itself.
CREATE OR REPLACE TRIGGER wake_backfills AFTER INSERT ON bulk_actions FOR EACH ROW
    EXECUTE FUNCTION wake('dagster_backfills');
CREATE OR REPLACE TRIGGER wake_backfills_of_changed AFTER UPDATE OF status ON bulk_actions FOR EACH ROW
    WHEN (NEW.status IS DISTINCT FROM OLD.status)
    EXECUTE FUNCTION wake('dagster_backfills');

-- Of an earlier version.
DROP FUNCTION IF EXISTS wake_queue();
