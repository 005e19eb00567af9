-- A run that was given up, or canceled, stays so: what its process still does counts for nothing. Its node
-- may have lost only a part of its network, and the run was launched again elsewhere. The process gets an
-- error at its next event of Dagster's, such as the end of a step, and ends. What it logs is stored: a run
-- that fails does so while it still puts its resources away. `migrate` runs this file.

CREATE OR REPLACE FUNCTION refuse_events_of_ended_run() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM runs WHERE run_id = NEW.run_id AND status IN ('FAILURE', 'CANCELED')) THEN
        RAISE insufficient_privilege
            USING MESSAGE = format('run %s has ended: it was given up or canceled, and this process is refused', NEW.run_id);
    END IF;
    RETURN NEW;
END $$;

-- Of user code. Dagster reports the end of a process after that of its run, as an engine event.
CREATE OR REPLACE TRIGGER of_ended_run BEFORE INSERT ON event_logs FOR EACH ROW
    WHEN (current_user = 'dagster_code' AND NEW.dagster_event_type <> 'ENGINE_EVENT')
    EXECUTE FUNCTION refuse_events_of_ended_run();
