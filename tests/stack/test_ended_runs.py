"""What the daemon does about runs that ended long ago, and about the containers of ended runs."""

import re

from control_plane.old_runs import NEEDED
from support.harness import wait_until

MATERIALIZED, PLANNED = "ASSET_MATERIALIZATION", "ASSET_MATERIALIZATION_PLANNED"
# A run, and an event of an asset that it has: the type, the asset, the partition.
EVENTS = [
    ("first", MATERIALIZED, "whole", None),
    ("first", MATERIALIZED, "days", "monday"),
    ("second", MATERIALIZED, "whole", None),
    ("second", MATERIALIZED, "days", "tuesday"),
    ("third", MATERIALIZED, "days", "tuesday"),
    ("third", PLANNED, "never made", None),
    ("fourth", MATERIALIZED, "days", None),
    ("fifth", MATERIALIZED, "days", None),
    ("sixth", None, None, None),
]
# A run, the location of its job, and the partition that it was launched for.
RUNS = [("early", "here", "monday"), ("late", "here", "monday"), ("other", "there", "monday")]
CHECKS = [("checked", "fresh"), ("checked again", "fresh"), ("checked once", "complete")]


def quoted(value):
    return "NULL" if value is None else f"'{value}'"


def needed(stack, rows, names):
    """Those of some runs that may not be deleted, with some rows in the database meanwhile."""
    array = f"ARRAY[{', '.join(map(quoted, names))}]"
    query = NEEDED.text.replace(":runs", array)
    found = stack.sql("; ".join(["BEGIN", *rows, query, "ROLLBACK"]))
    return {line for line in found if line in names}


def test_a_run_with_the_newest_event_of_an_asset_or_its_partition_is_needed(stack):
    rows = [
        "INSERT INTO event_logs (event, run_id, dagster_event_type, asset_key, partition)"
        f" VALUES ('{{}}', {', '.join(map(quoted, event))})"
        for event in EVENTS
    ]
    names = {event[0] for event in EVENTS}
    assert needed(stack, rows, names) == {"first", "second", "third", "fifth"}


def test_a_run_with_the_newest_result_of_a_check_is_needed(stack):
    rows = [
        "INSERT INTO asset_check_executions (asset_key, run_id, check_name)"
        f" VALUES ('whole', {quoted(run)}, {quoted(check)})"
        for run, check in CHECKS
    ]
    assert needed(stack, rows, {run for run, _ in CHECKS}) == {"checked again", "checked once"}


def test_the_newest_run_of_a_job_s_partition_is_needed_and_a_backfill_that_goes_on(stack):
    rows = [
        "INSERT INTO snapshots (snapshot_id, snapshot_body, snapshot_type) VALUES ('s', '', '')"
    ]
    for run, location, partition in RUNS:
        rows += [
            "INSERT INTO runs (run_id, snapshot_id, pipeline_name, status, partition)"
            f" VALUES ('{run}', 's', 'daily', 'SUCCESS', '{partition}')",
            "INSERT INTO run_tags (run_id, key, value)"
            f" VALUES ('{run}', '.dagster/repository', '__repository__@{location}')",
        ]
    names = {run for run, _, _ in RUNS}
    assert needed(stack, rows, names) == {"late", "other"}
    rows += [
        "INSERT INTO bulk_actions (key, status, timestamp) VALUES ('b', 'REQUESTED', now())",
        "INSERT INTO run_tags (run_id, key, value) VALUES ('early', 'dagster/backfill', 'b')",
    ]
    assert needed(stack, rows, names) == names


def test_a_run_that_another_run_repeats_is_needed_because_its_outputs_may_be_read(stack):
    columns = "snapshot_id, snapshot_body, snapshot_type"
    rows = [f"INSERT INTO snapshots ({columns}) VALUES ('s', '', '')"]
    tags = {"first": {}, "second": {"parent": "first", "root": "first"}, "other": {}}
    for run in tags:
        rows.append(
            "INSERT INTO runs (run_id, snapshot_id, pipeline_name, status)"
            f" VALUES ('{run}', 's', 'nightly', 'FAILURE')"
        )
        rows += [
            "INSERT INTO run_tags (run_id, key, value)"
            f" VALUES ('{run}', 'dagster/{of}_run_id', '{tags[run][of]}')"
            for of in tags[run]
        ]
    assert needed(stack, rows, set(tags)) == {"first"}


def test_the_containers_of_ended_runs_and_old_runs_go_when_their_time_is_over(stack):
    good, bad = stack.run("talk"), stack.launch("fail")
    first, newest = [stack.run("process_numbers_asset") for _ in range(2)]
    assert stack.finished(bad) == "FAILURE"
    stack.sql(
        "UPDATE runs SET update_timestamp = now() - interval '100 days',"
        " create_timestamp = now() - interval '100 days'"
        f" WHERE run_id IN ('{bad}', '{first}', '{newest}')"
    )
    settings = stack.environment
    again = "up", "--detach", "--wait", "--no-deps", "daemon"
    stack.environment = {**settings, "KEEP_SUCCEEDED_CONTAINERS": "0m", "KEEP_RUNS": "90d"}
    try:
        stack.compose(*again)
        wait_until(lambda: good not in stack.run_containers(), "the container to go")
        count = f"SELECT count(*) FROM runs WHERE run_id IN ('{bad}', '{first}')"
        wait_until(lambda: stack.sql(count) == ["0"], "the old runs to go")
    finally:
        stack.environment = settings
        stack.compose(*again)
    for run, stays in {good: True, bad: False, first: False, newest: True}.items():
        events = stack.sql(f"SELECT count(*) FROM event_logs WHERE run_id = '{run}'")
        assert (events != ["0"]) == stays
        assert (run in folders_of(stack, "compute-logs")) == stays
    # What the UI shows stays.
    assert "said on stdout" in stack.captured(good)[0]
    query = """{ assetNodes(group: {groupName: "numbers", repositoryName: "__repository__",
        repositoryLocationName: "code_location"}) { assetMaterializations(limit: 1) { runId } } }"""
    newest_of = [node["assetMaterializations"] for node in stack.graphql(query)["assetNodes"]]
    assert newest_of == [[{"runId": newest}]] * 6


def folders_of(stack, volume):
    """The names of a volume's folders, as the daemon sees them."""
    where = f"/var/lib/dagster/{volume}"
    return re.split(r"\s+", stack.compose("exec", "--no-TTY", "daemon", "ls", where).stdout)
