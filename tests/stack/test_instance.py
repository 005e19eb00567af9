"""The instance database is what docs/architecture.md says it is."""

import re
from pathlib import Path

ARCHITECTURE = (Path(__file__).resolve().parents[2] / "docs/architecture.md").read_text()


def described_tables():
    section = ARCHITECTURE[ARCHITECTURE.index("| storage | tables |") :].split("\n\n")[0]
    rows = [line.split("|")[2] for line in section.splitlines() if line.startswith("| ")]
    return {table for row in rows for table in re.findall(r"`(\w+)`", row)}


def test_the_tables_are_those_described(stack):
    found = stack.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    assert set(found) == described_tables()


def test_a_run_writes_the_tables_that_the_architecture_names(stack):
    # A first run: later ones find the job's snapshot stored.
    stack.run("process_numbers_asset")
    run = stack.run("process_numbers_asset")
    count = f"SELECT count(*) FROM {{}} WHERE run_id = '{run}'"
    assert stack.sql(count.format("runs")) == ["1"]
    assert 60 <= int(stack.sql(count.format("event_logs"))[0]) <= 90
    tags = stack.sql(f"SELECT key FROM run_tags WHERE run_id = '{run}'")
    assert "docker/container_id" in tags
    changed = f"SELECT asset_key FROM asset_keys WHERE last_run_id = '{run}'"
    assert len(stack.sql(changed)) == 6
    checked = f"SELECT count(*) FROM asset_check_executions WHERE run_id = '{run}'"
    assert stack.sql(checked) == ["1"]


def test_a_run_s_timeline_is_the_one_described(stack, finished_run):
    events = stack.sql(
        "SELECT dagster_event_type FROM event_logs WHERE dagster_event_type IS NOT NULL"
        f" AND run_id = '{finished_run}' ORDER BY id",
    )
    milestones = ["PIPELINE_ENQUEUED", "PIPELINE_STARTING", "PIPELINE_START", "STEP_START"]
    order = [events.index(event) for event in [*milestones, "PIPELINE_SUCCESS"]]
    assert order == sorted(order)
    assert events.count("STEP_SUCCESS") == 6


def test_the_instance_page_shows_each_part_and_the_stack_s_own_names(stack):
    shown = stack.graphql("{ instance { info } }")["instance"]["info"]
    assert "NoneType" not in shown
    # What differs from run to run stays as it is.
    assert "${" not in shown.replace("${LOCATION}", "")
    assert f"{stack.name}_runs" in shown
