-- The roles of the instance database. Postgres runs this file once, when it initializes the volume
-- postgres-data. The rights of each role on the tables are in grants.sql.

-- Postgres logs failed statements, and some of these contain a password.
SET log_min_error_statement = panic;

-- No role is a superuser, or can create roles or databases, or can replicate.
CREATE ROLE dagster_owner LOGIN;    -- migrate: creates and changes the tables
CREATE ROLE dagster_control LOGIN;  -- web server and daemon
CREATE ROLE dagster_code LOGIN;     -- code servers and run containers
CREATE ROLE dagster_viewer LOGIN;   -- the read-only web server, and Postgres's health check

\i /run/postgres-credentials/passwords.sql
ALTER ROLE postgres PASSWORD NULL;

-- Connections that runs cannot use up (reserved_connections in docker-compose.yml).
GRANT pg_use_reserved_connections TO dagster_control, dagster_owner;

-- By default every role may connect to every database and create temporary tables there.
REVOKE ALL ON DATABASE dagster, postgres, template1 FROM PUBLIC;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
-- By default every role may create large objects, also one that may only read. Nothing here uses them.
REVOKE EXECUTE ON FUNCTION lo_creat(integer), lo_create(oid), lo_from_bytea(oid, bytea) FROM PUBLIC;
GRANT CONNECT ON DATABASE dagster TO dagster_owner, dagster_control, dagster_code, dagster_viewer;
GRANT USAGE ON SCHEMA public TO dagster_owner, dagster_control, dagster_code, dagster_viewer;
GRANT CREATE ON SCHEMA public TO dagster_owner;
