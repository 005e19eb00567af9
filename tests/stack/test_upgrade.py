"""What a stack had outlives newer versions: of this project, of Dagster, of Postgres."""

import io
import json
import re
import shutil
import subprocess
import sys
import tarfile

import pytest
import yaml

from support import ROOT
from support.cli import commands, docker, dotenv
from support.harness import PREFIX, wait_until

EARLIER_HISTORY = ROOT / "tests/support/earlier_history.py"

# The last commit with the old layout: 8 networks, WORKSPACE, code_location/defs/.
EARLIER = "b9fbe741f82a"
START = """mutation Start($schedule: ScheduleSelector!) {
    startSchedule(scheduleSelector: $schedule) { __typename } }"""
SCHEDULE = {
    "repositoryLocationName": "code_location",
    "repositoryName": "__repository__",
    "scheduleName": "process_numbers_every_minute",
}


def earlier_checkout(folder):
    """The files of that commit, and what set-up found on this machine."""
    archive = subprocess.run(
        ["git", "archive", EARLIER], cwd=ROOT, capture_output=True, check=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    shutil.copy(ROOT / ".machine.env", folder)
    return folder


def schedules(stack):
    """The status of each schedule."""
    query = """{ schedulesOrError(repositorySelector: {repositoryLocationName: "code_location",
        repositoryName: "__repository__"}) { ... on Schedules { results {
          name scheduleState { status } } } } }"""
    found = stack.graphql(query)["schedulesOrError"]["results"]
    return {one["name"]: one["scheduleState"]["status"] for one in found}


@pytest.mark.whole
def test_history_outputs_passwords_and_schedules_outlive_an_upgrade(new_stack, tmp_path):
    stack = new_stack("upgrade")
    new_root, stack.root = stack.root, earlier_checkout(tmp_path)
    stack.override()
    # Nothing of the earlier command line is needed: this is what it ran.
    stack.compose("build")
    stack.compose("up", "--detach", "--wait")
    whole, of_an_asset = stack.run("process_numbers"), stack.run("process_numbers_asset")
    password, events = stack.password, stack.events(whole)
    stack.graphql(START, schedule=SCHEDULE)
    before = schedules(stack)
    assert before[SCHEDULE["scheduleName"]] == "RUNNING"

    stack.root = new_root
    for cached in ("config", "client", "password", "settings"):
        stack.__dict__.pop(cached, None)
    done = stack.verb("up")
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"

    assert stack.is_healthy()
    assert stack.password == password
    assert {stack.status_of(run) for run in (whole, of_an_asset)} == {"SUCCESS"}
    assert stack.events(whole) == events
    assert schedules(stack) == before
    # What one run of the earlier stack stored is what a run of this one loads.
    stack.run("process_numbers_asset", assets=["summed_two_sums"])
    # Nothing is left of what this version does without.
    left = docker("network", "ls", "--format", "{{.Name}}", "--filter", f"name=^{stack.name}_")
    assert set(left.split()) == {network["name"] for network in stack.config["networks"].values()}


# On Python 3.11, the oldest Dagster whose packages install: with what it needs and does not say.
OLDEST = (
    ["dagster==1.0.0", "dagster-postgres==0.16.0", "sqlalchemy<2", "pendulum<3", "setuptools<80"]
    if sys.version_info < (3, 12)
    else ["dagster==1.11.16", "dagster-postgres==0.27.16", "sqlalchemy<2.1"]
)
EARLIER_DAGSTERS = {
    "oldest": OLDEST,
    "previous-minor": ["dagster==1.12.22", "dagster-postgres==0.28.22", "sqlalchemy<2.1"],
}
MATERIALIZATIONS = """{ assetOrError(assetKey: {path: ["counted"]}) { ... on Asset {
  assetMaterializations { runId partition metadataEntries { label
    ... on IntMetadataEntry { intValue } } } } } }"""


@pytest.fixture(params=EARLIER_DAGSTERS)
def python_of_an_earlier_dagster(request, tmp_path):
    """The interpreter of an environment with an earlier Dagster."""
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    # pendulum 2 has no package for this Python, and builds without a compiler.
    only = "--only-binary=:all:", "--no-binary=pendulum"
    install = ["install", "--quiet", *only, "psycopg2-binary", *EARLIER_DAGSTERS[request.param]]
    subprocess.run([environment / "bin/pip", *install], check=True)
    return environment / "bin/python"


@pytest.mark.release
def test_the_history_of_an_earlier_dagster_and_its_schema_are_taken_over(
    new_stack, python_of_an_earlier_dagster, tmp_path
):
    stack = new_stack("older")
    stack.compose("build")
    stack.compose(*commands.start("postgres"))
    # The earlier version makes its tables, as the role that owns them.
    postgres = stack.container_of("postgres")
    passwords = docker("exec", postgres, "cat", "/run/postgres-credentials/passwords.sql")
    password = re.search(r"dagster_owner PASSWORD '(.*)'", passwords)[1]
    (network, *_) = stack.inspect(postgres)["NetworkSettings"]["Networks"].values()
    url = f"postgresql://dagster_owner:{password}@{network['IPAddress']}/dagster"
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text(
        yaml.safe_dump({"storage": {"postgres": {"postgres_url": url}}})
    )
    made = subprocess.run(
        [python_of_an_earlier_dagster, "-W", "ignore", EARLIER_HISTORY, home],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    said, failed, materialized = json.loads(made.stdout.splitlines()[-1])["runs"]

    done = stack.verb("up")
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    assert stack.is_healthy()
    assert [stack.status_of(run) for run in (said, failed, materialized)] == [
        "SUCCESS", "FAILURE", "SUCCESS",
    ]  # fmt: skip
    assert "said with the earlier version" in str(stack.events(said))
    assert "it failed with the earlier version" in str(stack.events(failed))
    (found,) = stack.graphql(MATERIALIZATIONS)["assetOrError"]["assetMaterializations"]
    assert (found["runId"], found["partition"]) == (materialized, "2022-01-02")
    assert {"label": "rows", "intValue": 7} in found["metadataEntries"]
    assert schedules(stack)[SCHEDULE["scheduleName"]] == "RUNNING"
    scheduled = "dagster/schedule_name", SCHEDULE["scheduleName"]
    (run, *_) = wait_until(lambda: stack.runs_tagged(*scheduled), "a run of the schedule")
    assert stack.finished(run["runId"]) == "SUCCESS"
    stack.run("process_numbers_asset")


# A later Postgres beside the one of the image, from the next release of Debian. The index of a
# mirror can be older than it is valid.
POSTGRES_18 = """
FROM {0}
USER 0:0
RUN sed -n 's/ trixie / forky /p' /etc/apt/sources.list >/etc/apt/sources.list.d/forky.list \\
    && apt-get update -o Acquire::Check-Valid-Until=false \\
    && apt-get install --yes --no-install-recommends postgresql-18 \\
    && rm /etc/apt/sources.list.d/forky.list \\
    && echo "listen_addresses = '*'" >>/usr/share/postgresql/18/postgresql.conf.sample
ENV PG_MAJOR=18 PATH=/usr/lib/postgresql/18/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
"""


OF_THE_MACHINE = dotenv.read((ROOT / ".machine.env").read_text())


@pytest.fixture
def postgres_18():
    """An image with Postgres 18."""
    base = OF_THE_MACHINE["POSTGRES_IMAGE"]
    if not base.startswith("standin/"):
        yield "postgres:18-trixie"
        return
    name = f"{PREFIX}-postgres:18"
    build = ["docker", "build", "--quiet", "--tag", name, "-"]
    subprocess.run(build, input=POSTGRES_18.format(base), text=True, check=True)
    yield name
    docker("image", "rm", name)


@pytest.mark.release
def test_one_command_puts_the_database_into_a_later_postgres_or_leaves_it_where_it_is(
    new_stack, postgres_18
):
    stack = new_stack("postgres")
    (stack.root / ".env").write_text("KEEP_FAILED_CONTAINERS=3d\n")
    assert stack.verb("up").returncode == 0
    assert stack.sql("SHOW server_version_num")[0].startswith("17")
    run = stack.run("process_numbers_asset")
    events, password = stack.events(run), stack.password

    # Code that nobody has deployed stays where it is.
    code = stack.inspect(stack.container_of("code_location"))["Image"]
    edited = stack.root / "code_location/src/code_location/defs/edited.py"
    edited.write_text("raise ValueError\n")

    done = stack.verb("upgrade", "--postgres", postgres_18)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    assert "every table and file compared" in done.stdout
    assert stack.sql("SHOW server_version_num")[0].startswith("18")
    assert stack.is_healthy()
    assert (stack.events(run), stack.password) == (events, password)
    stack.run("process_numbers_asset", assets=["summed_two_sums"])
    settings = (stack.root / ".env").read_text()
    assert settings == f"KEEP_FAILED_CONTAINERS=3d\nPOSTGRES_IMAGE={postgres_18}\n"

    # Back is a version that cannot read it: refused, and nothing is touched.
    for image in ("standin/no-such-image", OF_THE_MACHINE["POSTGRES_IMAGE"]):
        done = stack.verb("upgrade", "--postgres", image)
        assert done.returncode == 1
        assert "POSTGRES_IMAGE is as it was" in done.stderr.strip().splitlines()[-1]
        assert (stack.root / ".env").read_text() == settings
        assert stack.is_healthy()
        assert stack.inspect(stack.container_of("code_location"))["Image"] == code
    edited.unlink()
    assert stack.verb("up").returncode == 0
    assert stack.status_of(run) == "SUCCESS"


@pytest.mark.release
def test_one_command_takes_dagster_alone_to_its_next_patch_release(new_stack):
    stack = new_stack("patch")
    lock = stack.root / "requirements/control-plane.txt"
    version = re.compile(r"(?m)^dagster==(\S+)")
    *_, minor, patch = version.search(lock.read_text())[1].split(".")
    earlier = f"1.{minor}.{int(patch) - 1}"
    subprocess.run(["git", "init", "--quiet"], cwd=stack.root, check=True)
    make = ["make", "lock", f"DAGSTER_VERSION==={earlier}"]
    subprocess.run(make, cwd=stack.root, env=stack.environment, check=True)
    assert version.search(lock.read_text())[1] == earlier
    others = re.compile(r"(?m)^(?!dagster)\S+==\S+")
    before = others.findall(lock.read_text())
    who = "-c", "user.name=test", "-c", "user.email=test@example.com"
    for words in (["add", "--all"], [*who, "commit", "--quiet", "--message", "earlier"]):
        subprocess.run(["git", *words], cwd=stack.root, check=True)
    assert stack.verb("up").returncode == 0
    run = stack.run("process_numbers")
    assert earlier in stack.graphql("{ version }")["version"]

    done = stack.verb("upgrade", "--dagster")
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    now = version.search(lock.read_text())[1]
    assert int(now.split(".")[2]) > int(earlier.split(".")[2])
    assert now in stack.graphql("{ version }")["version"]
    assert others.findall(lock.read_text()) == before
    assert stack.status_of(run) == "SUCCESS"
    stack.run("process_numbers")
    # A project has the same version as the platform.
    of_the_project = (stack.root / "code_location/requirements.txt").read_text()
    assert version.search(of_the_project)[1] == now
