"""No role of the instance database can do more than it is for, tried over the network."""

import json

import pytest

from support.cli import docker

ROLES = ["dagster_owner", "dagster_control", "dagster_code", "dagster_viewer"]
REFUSED = "42501"  # insufficient_privilege

# What no role may.
BEYOND_DATA = [
    "CREATE ROLE intruder",
    "CREATE DATABASE loot",
    "CREATE SCHEMA loot",
    "CREATE EXTENSION hstore",  # a trusted one, which the owner of a database could have
    "CREATE TEMPORARY TABLE loot ()",
    "CREATE FUNCTION loot() RETURNS int LANGUAGE c AS '/lib/x86_64-linux-gnu/libc.so.6', 'getpid'",
    "ALTER ROLE CURRENT_USER SUPERUSER",
    "ALTER ROLE CURRENT_USER BYPASSRLS",
    "ALTER ROLE postgres PASSWORD 'mine'",
    "GRANT pg_read_server_files TO CURRENT_USER",
    "GRANT postgres TO CURRENT_USER",
    "SET ROLE postgres",
    "SET SESSION AUTHORIZATION postgres",
    "ALTER SYSTEM SET log_statement = 'all'",
    "SELECT pg_reload_conf()",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT pg_ls_dir('/')",
    "SELECT lo_import('/etc/passwd')",
    "SELECT lo_create(0)",
    "SELECT lo_from_bytea(0, 'loot')",
    "COPY (SELECT 1) TO '/tmp/loot'",
    "COPY (SELECT 1) TO PROGRAM 'id'",
    "COPY run_tags (key) FROM PROGRAM 'id'",
    "SELECT rolpassword FROM pg_authid",
    "SELECT passwd FROM pg_shadow",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename IS DISTINCT FROM user",
]
# What only the owner may.
BEYOND_ROWS = [
    "CREATE TABLE loot ()",
    "CREATE VIEW loot AS SELECT 1",
    "CREATE FUNCTION loot() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE TRIGGER loot AFTER INSERT ON runs EXECUTE FUNCTION unique_key_recheck()",
    "CREATE RULE loot AS ON INSERT TO run_tags DO INSTEAD NOTHING",
    "ALTER TABLE runs ADD loot text",
    "ALTER TABLE runs DISABLE ROW LEVEL SECURITY",
    "ALTER TABLE runs OWNER TO CURRENT_USER",
    "DROP POLICY code ON runs",
    "DROP TABLE event_logs",
    "TRUNCATE event_logs",
    "GRANT dagster_owner TO CURRENT_USER",
    "SET ROLE dagster_owner",
    "SELECT setval('runs_id_seq', 1)",
]
# What code servers and run containers may not: launch, switch on and off, delete.
BEYOND_STEPS = [
    "SET ROLE dagster_control",
    "INSERT INTO runs (run_id, status, run_body) VALUES ('forged', 'QUEUED', '{}')",
    "UPDATE runs SET status = 'QUEUED'",
    "UPDATE runs SET status = 'NOT_STARTED'",
    "UPDATE runs SET run_id = 'another'",
    "DO 'BEGIN LOCK TABLE runs; END'",
    "DELETE FROM runs",
    "DELETE FROM run_tags",
    "UPDATE event_logs SET event = '{}'",
    "DELETE FROM event_logs",
    "UPDATE asset_keys SET wipe_timestamp = now()",
    "DELETE FROM asset_keys",
    "DELETE FROM asset_check_executions",
    "SELECT nextval('runs_id_seq')",
]
# Whole tables, by what may be written there.
WRITES = {
    "dagster_code": {
        "asset_check_executions": "INSERT UPDATE",
        "asset_event_tags": "INSERT",
        "asset_keys": "INSERT UPDATE",
        "concurrency_limits": "DELETE INSERT UPDATE",
        "concurrency_slots": "DELETE INSERT UPDATE",
        "dynamic_partitions": "DELETE INSERT",
        "event_logs": "INSERT",
        "pending_steps": "DELETE INSERT UPDATE",
        "run_tags": "INSERT UPDATE",
        "runs": "UPDATE",
    },
    "dagster_viewer": {"asset_keys": "UPDATE"},
}


@pytest.fixture(scope="module")
def run(stack):
    """A run for the attacks to hit."""
    return stack.run("process_numbers_asset")


def attack(stack, role, statements):
    """The attacks that were not refused, and what came of them."""
    results = stack.as_role(role, statements)
    assert len(results) == len(statements)
    return {s: r for s, r in zip(statements, results, strict=True) if r != REFUSED}


@pytest.mark.parametrize("role", ROLES)
def test_no_role_can_do_more_than_read_and_write_data(stack, run, role):
    assert attack(stack, role, BEYOND_DATA) == {}


@pytest.mark.parametrize("role", ROLES[1:])
def test_only_the_owner_role_changes_the_schema(stack, run, role):
    assert attack(stack, role, BEYOND_ROWS) == {}


def test_the_owner_role_changes_the_schema(stack):
    """Else the refusals above would say nothing about the roles."""
    change = ["CREATE TABLE passing (id int)", "ALTER TABLE passing ADD name text"]
    assert stack.as_role("dagster_owner", [*change, "DROP TABLE passing"]) == [[], [], []]


def test_user_code_s_role_cannot_launch_runs_switch_schedules_or_delete_history(stack, run):
    assert attack(stack, "dagster_code", BEYOND_STEPS) == {}


def test_a_waiting_run_cannot_be_rewritten_by_code_and_can_be_canceled(stack, run):
    # NOT_STARTED and not QUEUED: the daemon would take it while the test looks.
    wait = (
        "INSERT INTO runs (run_id, pipeline_name, status, run_body) SELECT"
        f" 'waiting', pipeline_name, 'NOT_STARTED', run_body FROM runs WHERE run_id = '{run}'"
    )
    assert stack.as_role("dagster_control", [wait]) == [[]]
    rewrite = "UPDATE runs SET run_body = '{}' WHERE run_id = 'waiting'"
    cancel = "UPDATE runs SET status = 'CANCELED' WHERE run_id = 'waiting'"
    try:
        assert stack.as_role("dagster_code", [rewrite, cancel]) == [REFUSED, []]
    finally:
        stack.as_role("dagster_control", ["DELETE FROM runs WHERE run_id = 'waiting'"])


@pytest.mark.parametrize("status", ["FAILURE", "CANCELED", "SUCCESS", "STARTED"])
def test_the_events_of_a_run_that_was_given_up_are_refused(stack, run, status):
    begun = (
        "INSERT INTO runs (run_id, pipeline_name, status, run_body) SELECT"
        f" 'given up', pipeline_name, '{status}', run_body FROM runs WHERE run_id = '{run}'"
    )
    event = (
        "INSERT INTO event_logs (run_id, event, dagster_event_type, timestamp)"
        " VALUES ('given up', '', '{}', now())"
    )
    remove = [f"DELETE FROM {table} WHERE run_id = 'given up'" for table in ("event_logs", "runs")]
    kinds = "ASSET_MATERIALIZATION", "STEP_SUCCESS", "PIPELINE_SUCCESS", "ENGINE_EVENT"
    assert stack.as_role("dagster_control", [begun]) == [[]]
    try:
        said = stack.as_role("dagster_code", [event.format(kind) for kind in kinds])
        is_over = status in ("FAILURE", "CANCELED")
        assert said == [*([REFUSED if is_over else []] * 3), []]
        # The daemon still reports what it does with the run.
        assert stack.as_role("dagster_control", [event.format(kinds[0])]) == [[]]
    finally:
        stack.as_role("dagster_control", remove)


@pytest.mark.parametrize("role", WRITES)
def test_a_role_writes_in_these_tables_and_no_other(stack, role):
    found = stack.sql(
        "SELECT relname, string_agg(may, ' ' ORDER BY may) FROM pg_class, unnest(ARRAY["
        "'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER', 'MAINTAIN']) may"
        " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND ("
        f"   has_table_privilege('{role}', oid, may) OR CASE WHEN may IN ('INSERT', 'UPDATE')"
        f"   THEN has_any_column_privilege('{role}', oid, may) END)"
        " GROUP BY relname",
    )
    assert dict(line.split("|") for line in found) == WRITES[role]


def test_the_owner_role_owns_every_table_and_every_role_reads_them(stack, run):
    tables = stack.sql("SELECT tablename, tableowner FROM pg_tables WHERE schemaname = 'public'")
    names, owners = zip(*(line.split("|") for line in tables), strict=True)
    assert set(owners) == {"dagster_owner"}
    # These are for the control plane alone (test_warm_containers.py, test_two_daemons.py) and
    # for the operator.
    names = [n for n in names if n not in ("warm_containers", "deploys", "only_daemon")]
    read = [f"SELECT count(*) > 0 FROM {name}" for name in names]
    everything = stack.as_role("dagster_owner", read)
    assert everything[names.index("runs")] == [[True]]
    for role in ROLES[1:]:
        assert stack.as_role(role, read) == everything


def test_the_viewer_role_writes_only_the_summary_of_partitions(stack, run):
    """`dagster-webserver --read-only` stores it when it shows an asset with partitions."""
    summary, rest = "cached_status_data", "last_run_id"
    update = "UPDATE asset_keys SET {0} = {0}"
    results = stack.as_role("dagster_viewer", [update.format(summary), update.format(rest)])
    assert results == [[], REFUSED]


def test_user_code_uses_the_instance_in_a_run_container(stack):
    run = stack.run("instance_user")
    (tag,) = stack.sql(f"SELECT value FROM run_tags WHERE run_id = '{run}' AND key = 'colour'")
    assert tag == "black"
    assert stack.sql("SELECT count(*) FROM pending_steps") == ["0"]


@pytest.mark.parametrize("database", ["postgres", "template1", "template0"])
def test_no_role_reaches_another_database(stack, database):
    for role in ROLES:
        refusal = stack.as_role(role, [], dbname=database)
        assert "no pg_hba.conf entry for host" in refusal, role
        may = stack.sql(f"SELECT has_database_privilege('{role}', '{database}', 'CONNECT')")
        # Nobody at all connects to template0.
        assert may == ["f"] or database == "template0"


def test_the_superuser_has_no_password_and_cannot_sign_in_over_the_network(stack):
    assert "no pg_hba.conf entry" in stack.as_role("dagster_code", [], user="postgres")
    assert stack.sql("SELECT rolpassword IS NULL FROM pg_authid WHERE rolname = 'postgres'") == [
        "t"
    ]
    over_tcp = ["psql", "--host=127.0.0.1", "--username=postgres", "--command=SELECT 1", "dagster"]
    done = stack.compose("exec", "--no-TTY", "postgres", *over_tcp, check=False)
    assert "no pg_hba.conf entry" in done.stderr


def test_postgres_requires_the_right_password(stack):
    wrong = stack.as_role("dagster_code", [], password="wrong")
    assert "password authentication failed" in wrong
    # The passfile in there has no password for another role.
    other = stack.as_role("dagster_code", [], user="dagster_control")
    assert "no password supplied" in other


def test_postgres_accepts_only_scram_and_peer_authentication(stack):
    rules = stack.sql("SELECT type, auth_method, address, error FROM pg_hba_file_rules")
    assert rules == ["local|peer||", "host|scram-sha-256|samenet|"]
    stored = stack.sql("SELECT rolpassword FROM pg_authid WHERE rolname LIKE 'dagster%'")
    # One iteration: docker-compose.yml says why.
    assert [line.split(":")[0] for line in stored] == ["SCRAM-SHA-256$1"] * len(ROLES)


def test_a_run_container_holds_its_own_role_s_password_only(stack, run):
    container = stack.inspect(stack.run_containers()[run])
    mounts = {mount["Destination"]: mount for mount in container["Mounts"]}
    credentials = mounts.pop("/run/dagster-credentials")
    assert credentials["Name"] == f"{stack.name}_code-credentials"
    assert not credentials["RW"]
    assert not [path for path in mounts if "credentials" in path]
    volume = f"--volume={credentials['Name']}:/v:ro"
    listing = docker("run", "--rm", volume, container["Image"], "sh", "-c", "cd /v; ls -A; cat *")
    name, line = listing.splitlines()
    assert name == "pgpass"
    assert line.startswith("*:*:*:dagster_code:")
    assert "dagster_code" in json.dumps(container["Config"]["Env"])


def test_runs_cannot_take_the_control_plane_s_last_connections(stack):
    reserved = "SELECT setting::int FROM pg_settings WHERE name = 'reserved_connections'"
    assert int(stack.sql(reserved)[0]) >= 20
    members = stack.sql(
        "SELECT rolname FROM pg_roles WHERE rolname LIKE 'dagster%'"
        " AND pg_has_role(rolname, 'pg_use_reserved_connections', 'USAGE') ORDER BY 1",
    )
    assert members == ["dagster_control", "dagster_owner"]
