-- The roles of the instance database. Postgres runs this once, when it makes the volume
-- postgres-data; what each role may do with the tables is in grants.sql.

-- A statement that fails is logged, and some of these hold a password.
SET log_min_error_statement = panic;

-- Without attributes: no superuser, no making of roles or databases, no replication.
CREATE ROLE dagster_owner LOGIN;    -- migrate: makes and changes the tables
CREATE ROLE dagster_control LOGIN;  -- webserver and daemon
CREATE ROLE dagster_code LOGIN;     -- code servers and run containers
CREATE ROLE dagster_viewer LOGIN;   -- a read-only webserver, and the health check

\i /run/postgres-credentials/passwords.sql
ALTER ROLE postgres PASSWORD NULL;

-- However many connections runs hold, the control plane finds one (reserved_connections).
GRANT pg_use_reserved_connections TO dagster_control, dagster_owner;

-- By default everybody may connect to every database and make temporary tables there.
REVOKE ALL ON DATABASE dagster, postgres, template1 FROM PUBLIC;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
-- Nor does anything here use large objects, which even who may only read could make.
REVOKE EXECUTE ON FUNCTION lo_creat(integer), lo_create(oid), lo_from_bytea(oid, bytea) FROM PUBLIC;
GRANT CONNECT ON DATABASE dagster TO dagster_owner, dagster_control, dagster_code, dagster_viewer;
GRANT USAGE ON SCHEMA public TO dagster_owner, dagster_control, dagster_code, dagster_viewer;
GRANT CREATE ON SCHEMA public TO dagster_owner;
