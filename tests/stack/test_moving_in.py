"""A project that was written elsewhere moves in (tests/projects/shop): nothing of it is edited."""

import json
import shutil
import subprocess

import pytest

from support import ROOT
from support.cli import StackError, docker
from support.harness import wait_until
from support.triggers import switched_on

ENV = 'DUCKDB_DATABASE=data/shop.duckdb\nSHOP_NAME="The {}"\n'
FOR_THE_SHOP = ENV.format("shop")
ASSETS = [
    "raw_orders", "orders", "customers", "products", "daily_revenue", "revenue_plot",
    "best_customer", "best_product", "report", "customer_report",
]  # fmt: skip
# What the project gets wrong: a write outside data/, and a job that Dagster leaves out.
WRONG = """
import dagster as dg

@dg.asset
def misplaced():
    open("totals.txt", "w").close()

@dg.job
def forgotten(): ...

@dg.definitions
def defs():
    return dg.Definitions(assets=[misplaced])
"""


def shop(folder, name="shop", env=FOR_THE_SHOP):
    """A copy of the project, with a .env that only its owner can read."""
    shutil.copytree(ROOT / "tests/projects/shop", folder / name)
    (folder / name / ".env").write_text(env)
    (folder / name / ".env").chmod(0o600)
    return folder / name


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return shop(tmp_path_factory.mktemp("theirs"))


@pytest.fixture(scope="module")
def theirs(stacks, project):
    """A stack that serves the project."""
    made = stacks.make("shop", CODE=str(project))
    done = made.verb("up")
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    yield made
    stacks.remove(made)


def read(stack, path, service="code_location"):
    return docker("exec", stack.container_of(service), "cat", path)


@pytest.mark.parametrize(
    "alone", [["report", "revenue_plot"], pytest.param(ASSETS, marks=pytest.mark.whole)]
)
def test_every_asset_is_materialized_in_one_run_and_each_in_a_run_of_its_own(theirs, alone):
    run = theirs.run("everything", location="shop")
    starts = [
        e["stepKey"] for e in theirs.events(run) if e["__typename"] == "ExecutionStepStartEvent"
    ]
    assert set(starts) >= set(ASSETS) - {"customer_report"}
    for asset in alone:
        theirs.run("__ASSET_JOB", assets=[asset], location="shop")
    assert "ben likes us" in read(theirs, "data/output/report.md")
    assert read(theirs, "data/output/revenue.png")[1:4] == "PNG"


@pytest.mark.whole
def test_its_schedule_and_its_sensor_make_runs(theirs):
    with (
        switched_on(theirs, "Schedule", "every_minute", "shop"),
        switched_on(theirs, "Sensor", "requests", "shop"),
    ):
        where = theirs.container_of("code_location")
        ask = 'echo \'{"customer": "ben"}\' >data/requests/one.json'
        docker("exec", where, "sh", "-c", ask)
        (asked,) = wait_until(
            lambda: theirs.runs_tagged("dagster/sensor_name", "requests"), "the sensor's run"
        )
        timed = wait_until(
            lambda: theirs.runs_tagged("dagster/schedule_name", "every_minute"),
            "the schedule's run",
        )
    assert theirs.finished(asked["runId"]) == "SUCCESS"
    assert theirs.finished(timed[-1]["runId"]) == "SUCCESS"


@pytest.mark.whole
def test_its_variables_are_named_when_missing_shown_nowhere_and_new_in_the_next_run(
    theirs, project
):
    (project / ".env").write_text("SHOP_NAME=shop\n")
    said = (
        f"database reads DUCKDB_DATABASE, which is not set: add it to {project}/.env, then make up"
    )
    up = theirs.verb("up")
    assert up.returncode == 0
    assert said in up.stderr
    status = theirs.verb("status")
    assert status.returncode == 1
    assert said in status.stderr
    # So does the web UI: it launches no run.
    with pytest.raises(StackError, match=r"DUCKDB_DATABASE.* which is not set"):
        theirs.launch("__ASSET_JOB", assets=["orders"], location="shop")
    (project / ".env").write_text(ENV.format("corner shop 4711"))
    image = theirs.inspect(theirs.container_of("code_location"))["Image"]
    assert theirs.verb("up").returncode == 0
    # No build: the image is the same.
    assert theirs.inspect(theirs.container_of("code_location"))["Image"] == image
    run = theirs.run("everything", location="shop")
    assert "# The corner shop 4711" in read(theirs, "data/output/report.md")
    # The code server has it, too: sensors and schedules read it there.
    served = docker(
        "exec", theirs.container_of("code_location"), "cat", "/run/dagster-settings/.env"
    )
    assert "corner shop" in served
    containers = [row["ID"] for row in theirs.services().values()] + [theirs.run_containers()[run]]
    shown = [docker("inspect", container) for container in containers]
    shown += [theirs.compose("config").stdout, theirs.compose("logs").stdout]
    shown.append(json.dumps(theirs.events(run)))
    shown.append(docker("history", "--no-trunc", image))
    assert not [text[:200] for text in shown if "corner shop" in text]
    inside = docker("run", "--rm", "--user=0", image, "find", "/", "-xdev", "-name", ".env*")
    assert not inside


@pytest.mark.release
def test_a_second_location_has_its_own_files_and_a_broken_one_holds_up_nobody(theirs, tmp_path):
    branch = shop(tmp_path, "branch", ENV.format("branch").replace("shop.duckdb", "branch.duckdb"))
    (branch / "src/shop/defs/wrong.py").write_text(WRONG)
    added = theirs.verb("location", "branch", "--from", str(branch))
    assert added.returncode == 0, added.stderr
    assert theirs.verb("location", "finance").returncode == 0
    lock = theirs.root / "locations/finance/pyproject.toml"
    right = lock.read_text()
    lock.write_text(right.replace('"dagster"', '"dagster==1.12.4"'))
    up = theirs.verb("up")
    assert up.returncode == 1
    reason = up.stderr.strip().splitlines()[-1]
    assert reason.startswith("up: code location finance: ")
    assert "finance depends on dagster==1.12.4 and dagster==1.13" in reason
    # What Dagster leaves out of the other one is named.
    assert "not served: src/shop/defs/wrong.py: forgotten: its file has a" in up.stderr
    # The others are served, each with its own files.
    for asset in ("raw_orders", "orders"):
        theirs.run("__ASSET_JOB", assets=[asset], location="branch")
    assert "branch.duckdb" in docker("exec", theirs.container_of("branch"), "ls", "data")
    assert "branch.duckdb" not in docker("exec", theirs.container_of("code_location"), "ls", "data")
    # A write outside of the data folders says which there are.
    run = theirs.launch("__ASSET_JOB", assets=["misplaced"], location="branch")
    assert theirs.finished(run) == "FAILURE"
    said = theirs.said_of(run)
    assert "totals.txt cannot be written: a run writes to data of its project and to /tmp" in said
    assert "CODE_DATA" in said
    # Nor does one hold up anybody that cannot start, or whose project is gone.
    branch.rename(tmp_path / "moved")
    up = theirs.verb("up")
    assert up.returncode == 1
    assert "code location branch: not started: " in up.stderr.strip().splitlines()[-1]
    theirs.run("__ASSET_JOB", assets=["raw_orders"], location="shop")
    (tmp_path / "moved").rename(branch)
    # Mended, it is served as well.
    lock.write_text(right)
    assert theirs.verb("up").returncode == 0
    theirs.run("__ASSET_JOB", assets=["first_asset"], location="finance")
    # Taken out, its containers go, its data stays.
    for name in ("branch", "finance"):
        assert theirs.verb("location", name, "--remove").returncode == 0
    done = theirs.verb("up")
    assert done.returncode == 0, done.stderr
    assert not {"branch", "finance"} & set(theirs.services())
    assert docker("volume", "ls", "--quiet", "--filter", f"name={theirs.name}_branch-data")


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        pytest.param(
            lambda p: (p / "pyproject.toml").write_text(
                (p / "pyproject.toml").read_text().replace("dagster>=1.11", "dagster==1.12.4")),
            "shop depends on dagster==1.12.4 and dagster==1.13",
            id="version", marks=pytest.mark.whole),
        pytest.param(
            lambda p: shutil.rmtree(p / "src"),
            "names the module shop.definitions, which is not there",
            id="no definitions", marks=pytest.mark.whole),
        pytest.param(
            lambda p: (p / "src/dagster.py").touch(),
            "has the name of a module of Python or of Dagster",
            id="shadow", marks=pytest.mark.whole),
    ],
)  # fmt: skip
def test_a_project_that_cannot_work_is_refused_in_one_line(new_stack, tmp_path, break_it, said):
    folder = shop(tmp_path)
    break_it(folder)
    done = new_stack("refused", CODE=str(folder)).verb("up")
    assert done.returncode == 1
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("up: code location: refused")
    assert said in line


def test_a_folder_that_is_not_there_is_refused_by_name(new_stack):
    done = new_stack("refused", CODE="../nowhere").verb("up")
    assert done.returncode == 1
    assert done.stderr.strip().endswith("nowhere: there is no such folder")


@pytest.mark.whole
def test_it_moves_in_with_docker_compose_alone(new_stack, tmp_path):
    stack = new_stack("alone", CODE=str(shop(tmp_path, "their-shop")))
    done = stack.compose("up", "--build", "--detach", "--wait", check=False)
    assert done.returncode == 0, done.stderr
    stack.run("everything", location="their-shop")


@pytest.mark.whole
def test_a_new_location_s_name_is_refused_when_it_is_taken_or_cannot_be_used(new_stack):
    stack = new_stack("names")
    for name, said in (
        ("edge", "is taken"),
        ("warehouse", "is taken"),
        ("Finance", "lower-case letters"),
        ("../x", "lower-case letters"),
        ("finance-2", "lower-case letters"),
        ("viewer", "is taken"),
        ("code", "something else has this name"),
        ("json", "something else has this name"),
        ("edge_files", "something else has this name"),
    ):
        done = stack.verb("location", name)
        assert done.returncode == 1, name
        assert said in done.stderr
    done = stack.verb("location", "finance", "--from", "nowhere")
    assert "nowhere: there is no such folder" in done.stderr
    done = stack.verb("location", "finance", "--from", ".$x")
    assert done.returncode == 1
    # What is taken out and put in again is as it was.
    mine = stack.root / "locations/finance/src/finance/defs/mine.py"
    for _ in range(2):
        assert stack.verb("location", "finance").returncode == 0
        assert "COMPOSE_PROFILES=finance\n" in (stack.root / ".env").read_text()
        mine.write_text("# mine\n")
        gone = stack.verb("location", "finance", "--remove")
        assert gone.returncode == 0, gone.stderr
        assert "Kept: locations/finance, the volumes" in gone.stdout
        assert mine.read_text() == "# mine\n"
    shutil.rmtree(stack.root / "locations/finance")
    listing = subprocess.run(
        ["ls", stack.root / "locations"], capture_output=True, text=True, check=True
    )
    assert listing.stdout.split() == ["backup.yml", "compose.yml", "warehouse"]
