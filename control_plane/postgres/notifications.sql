-- Wakes the queue in the daemon (enqueued.py) when a run is put into it, and when a place becomes free:
-- a run ends, or a step leaves a pool. `migrate` runs this file after Dagster has made the tables.

CREATE OR REPLACE FUNCTION wake_queue() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NOTIFY dagster_queue;
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER wake_queue AFTER INSERT OR UPDATE OF status ON runs FOR EACH ROW
    WHEN (NEW.status IN ('QUEUED', 'SUCCESS', 'FAILURE', 'CANCELED'))
    EXECUTE FUNCTION wake_queue();

CREATE OR REPLACE TRIGGER wake_queue AFTER UPDATE OR DELETE ON concurrency_slots FOR EACH STATEMENT
    EXECUTE FUNCTION wake_queue();
