-- Run containers that have loaded their code and wait for a run (launcher/warm.py). Whoever changes a
-- row first decides: the container takes its run, or the launcher takes the run back. `migrate` runs
-- this file after grants.sql.

CREATE TABLE IF NOT EXISTS warm_containers (
    -- In the place of a run ID in the container's label dagster/run_id.
    slot text PRIMARY KEY,
    number serial UNIQUE,
    -- A container may use its own row only, and has the proof that it is. It sets the proof when it
    -- connects: a query is visible to all sessions of its role.
    proof_hash bytea UNIQUE NOT NULL,
    -- The hash of all that a run and a container must have in common.
    fits text NOT NULL,
    container_id text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    ready_at timestamptz,
    -- The run that the launcher chose this container for, the arguments of its command, and when.
    run_id text,
    arguments text,
    given_at timestamptz,
    taken_at timestamptz
);
-- How many runs it may still take, and since when it has none. An earlier version of this table lacks them.
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_attribute
        WHERE attrelid = 'warm_containers'::regclass AND attname = 'free_since') THEN
        ALTER TABLE warm_containers ADD COLUMN IF NOT EXISTS runs_left int NOT NULL DEFAULT 1,
            ADD COLUMN IF NOT EXISTS free_since timestamptz NOT NULL DEFAULT now();
    END IF;
END $$;

-- The number of this kind of advisory lock. A container that waits holds the one with its number, and
-- loses it with its connection.
CREATE OR REPLACE FUNCTION is_waiting(number int) RETURNS boolean LANGUAGE sql
    SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = 14
        AND objid = number AND objsubid = 2 AND granted)
$$;

-- What a waiting container calls: it gets the arguments of its run, once, or '' if there are none yet,
-- or NULL if it is not wanted any more.
CREATE OR REPLACE FUNCTION take_run() RETURNS text LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    found warm_containers;
    proof bytea := sha256(current_setting('warm.proof', true)::bytea);
BEGIN
    UPDATE warm_containers SET taken_at = now(), runs_left = runs_left - 1
        WHERE proof_hash = proof AND given_at IS NOT NULL AND taken_at IS NULL
        RETURNING * INTO found;
    IF found.slot IS NOT NULL THEN
        RETURN found.arguments;
    END IF;
    UPDATE warm_containers SET ready_at = coalesce(ready_at, now())
        WHERE proof_hash = proof AND taken_at IS NULL
        RETURNING * INTO found;
    IF found.slot IS NULL OR NOT pg_try_advisory_lock(14, found.number) THEN
        RETURN NULL;
    END IF;
    RETURN '';
END $$;

-- What a container calls when its run has ended: whether it may wait for another one.
CREATE OR REPLACE FUNCTION wait_again() RETURNS boolean LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    UPDATE warm_containers
        SET run_id = NULL, arguments = NULL, given_at = NULL, taken_at = NULL, free_since = now()
        WHERE proof_hash = sha256(current_setting('warm.proof', true)::bytea)
          AND taken_at IS NOT NULL AND runs_left > 0;
    RETURN FOUND;
END $$;

REVOKE ALL ON warm_containers FROM dagster_control, dagster_code, dagster_viewer;
GRANT SELECT, INSERT, UPDATE, DELETE ON warm_containers TO dagster_control;
GRANT USAGE ON SEQUENCE warm_containers_number_seq TO dagster_control;
REVOKE ALL ON FUNCTION take_run(), wait_again(), is_waiting(int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION take_run(), wait_again() TO dagster_code;
GRANT EXECUTE ON FUNCTION is_waiting(int) TO dagster_control;
