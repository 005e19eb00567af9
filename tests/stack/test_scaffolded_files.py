"""`dg`, `make dev` and the next run's container find a file that `dg scaffold` writes."""

import json
import os
import re
import signal
import subprocess
import urllib.request

import pytest

from support.harness import wait_until
from support.leases import Lease

SCAFFOLDED = "code_location/src/code_location/defs/sales/orders.py"
# No setting of Dagster's, and no activated environment.
ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if name not in ("DAGSTER_HOME", "PYTHONPATH", "VIRTUAL_ENV")
}


def call(folder, *command):
    return subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )


def dg(root, folder, *arguments):
    """Runs the dg of a checkout's own environment in one of its folders."""
    return call(root / folder, root / ".venv/bin/dg", *arguments)


@pytest.fixture(scope="module")
def checkout(stacks):
    """A checkout with its own environment and a scaffolded asset; its stack is not started."""
    made = stacks.make("scaffold")
    done = call(made.root, "make", ".venv/made")
    assert done.returncode == 0, done.stderr
    scaffold = "scaffold", "defs", "dagster.asset", "sales/orders.py"
    done = dg(made.root, "code_location", *scaffold)
    assert done.returncode == 0, done.stderr
    assert (made.root / SCAFFOLDED).is_file()
    yield made
    stacks.remove(made)


def test_dg_lists_the_file_s_asset_in_the_project(checkout):
    done = dg(checkout.root, "code_location", "list", "defs", "--json")
    assert done.returncode == 0, done.stderr
    assert "orders" in {asset["asset_key"] for asset in json.loads(done.stdout)["assets"]}


@pytest.mark.whole
def test_dg_checks_the_projects_at_the_root(checkout):
    done = dg(checkout.root, ".", "check", "defs")
    assert done.returncode == 0, done.stderr
    assert "All definitions loaded successfully" in done.stdout


@pytest.mark.whole
def test_dg_names_a_file_that_cannot_be_imported(checkout):
    broken = (checkout.root / SCAFFOLDED).with_name("broken.py")
    broken.write_text("import no_such_module\n")
    done = dg(checkout.root, "code_location", "check", "defs")
    broken.unlink()
    assert done.returncode == 1
    assert "No module named 'no_such_module'" in done.stdout + done.stderr


@pytest.mark.whole
def test_dg_scaffolds_in_a_project_and_says_so_at_the_root(checkout):
    """dg refuses this in a workspace. When it no longer does, the README can say less."""
    done = dg(checkout.root, ".", "scaffold", "defs", "dagster.asset", "sales/returns.py")
    assert done.returncode == 1
    assert f"- {checkout.root}/code_location\n" in done.stderr


@pytest.mark.whole
def test_make_dev_serves_the_file_on_sqlite(checkout):
    lease = Lease()
    log = checkout.root / "dev.log"
    with log.open("w") as output:
        server = subprocess.Popen(
            ["make", "dev", f"DEV_PORT={lease.port}"],
            cwd=checkout.root, env=ENVIRONMENT, stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip
    query = {"query": "{ assetNodes { assetKey { path } } instance { info } }"}

    def answer():
        assert server.poll() is None, log.read_text()
        request = urllib.request.Request(
            f"http://127.0.0.1:{lease.port}/graphql",
            json.dumps(query).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request) as response:  # noqa: S310
                return json.load(response)["data"]
        except OSError:
            return None

    try:
        served = wait_until(answer, "make dev to answer", 300)
        assert ["orders"] in [node["assetKey"]["path"] for node in served["assetNodes"]]
        assert "SqliteRunStorage" in served["instance"]["info"]
        assert f"{checkout.root}/.dagster" in served["instance"]["info"]
    finally:
        os.killpg(server.pid, signal.SIGINT)
        server.wait(60)
        lease.release()
    assert "Dagster services shut down" in log.read_text()


@pytest.mark.whole
def test_the_file_s_asset_materializes_in_a_run_container(checkout):
    done = checkout.verb("up")
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    run = checkout.run("__ASSET_JOB", assets=["orders"])
    kinds = {event["__typename"] for event in checkout.events(run)}
    assert "MaterializationEvent" in kinds
    image = checkout.inspect(checkout.run_containers()[run])["Image"]
    assert image == checkout.inspect(checkout.container_of("code_location"))["Image"]


def test_a_build_refuses_files_in_the_old_folder_and_says_how_to_move_them(new_stack):
    made = new_stack("old-layout")
    old = made.root / "code_location/defs/sales/mine.py"
    old.parent.mkdir(parents=True)
    old.write_text("raise SystemExit\n")
    # What Python left there is no reason to refuse.
    (old.parent / "__pycache__").mkdir()
    (old.parent / "__pycache__/mine.pyc").touch()
    done = made.compose("build", "code_location", check=False)
    assert done.returncode != 0
    said = done.stdout + done.stderr
    (command,) = set(re.findall(r"mkdir -p \S+/defs/sales && mv -n \S+ \S+/$", said, re.M))
    assert call(made.root / "code_location", "sh", "-ec", command).returncode == 0
    assert not old.exists()
    assert (made.root / "code_location/src/code_location/defs/sales/mine.py").is_file()
    done = made.compose("build", "code_location", check=False)
    assert done.returncode == 0, done.stderr
