import json
import os
import signal
import subprocess
import tempfile
import uuid
from pathlib import Path
from urllib.parse import quote

import pytest

from support.cli import LAUNCH
from support.harness import DOMAIN
from support.scheduler import GroupScheduling
from support.stacks import Stacks, sweep

# The name of this process among several; the only one, and the one that starts others, have none.
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
REGISTER, STACKS = pytest.StashKey[str](), pytest.StashKey[Stacks]()
QUICK = ("static", "unit")


def pytest_configure(config):
    if WORKER:
        register = config.workerinput["register"]
    else:
        register = tempfile.mkdtemp(prefix="dagster-test-")
        # When told to end it ends as on Ctrl-C.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    # What is started in the background of a shell ignores Ctrl-C, and so would all that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.stash[REGISTER], config.stash[STACKS] = register, Stacks(register)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    node.workerinput["register"] = node.config.stash[REGISTER]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return GroupScheduling(config, log)


def pytest_collection_modifyitems(items):
    folder = Path(__file__).parent
    for item in items:
        if item.path.relative_to(folder).parts[0] in QUICK:
            item.add_marker("quick")


def pytest_unconfigure(config):
    """Also after Ctrl-C, which may come again while this goes on."""
    if not WORKER:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sweep(config.stash[REGISTER])


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.when in ("setup", "call") and report.failed:
        for stack in item.config.stash[STACKS].made:
            report.sections.append((f"containers of {stack.registered}", stack.diagnosis()))


@pytest.fixture(scope="session")
def stacks(pytestconfig):
    """Makes stacks that are not started yet, and removes those that no test removes."""
    made = pytestconfig.stash[STACKS]
    yield made
    made.remove_all()


@pytest.fixture
def new_stack(stacks):
    """Makes stacks that are not started yet, for one test."""
    others = list(stacks.made)
    yield stacks.make
    for stack in [one for one in stacks.made if one not in others]:
        stacks.remove(stack)


@pytest.fixture(scope="session")
def stack(stacks):
    """The stack that most tests of a process share, started and healthy.

    It has one more file in code_location/: jobs that hang, fail and talk, which nobody wants in
    their UI.
    """
    made = stacks.make(
        WORKER or "shared",
        extra_definitions=True,
        NOTIFICATION_WEBHOOK_URL="http://webhook:8080/",
        COMPOSE_PROFILES="viewer",
    )
    done = made.verb("up")
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    return made


@pytest.fixture(scope="module")
def finished_run(stack):
    """A run of process_numbers that has succeeded; its container is still there."""
    if stack.finished_run not in stack.run_containers():
        stack.finished_run = stack.run("process_numbers")
    return stack.finished_run


@pytest.fixture
def launch():
    """A mutation that launches a run: as JSON, as a query string, and what marks the run."""
    mark = str(uuid.uuid4())
    selector = {
        "repositoryLocationName": "code_location",
        "repositoryName": "__repository__",
        "jobName": "process_numbers",
    }
    tags = {"tags": [{"key": "mark", "value": mark}]}
    params = {"selector": selector, "runConfigData": {}, "executionMetadata": tags}
    variables = {"params": params}
    in_url = f"query={quote(LAUNCH)}&variables={quote(json.dumps(variables))}"
    return json.dumps({"query": LAUNCH, "variables": variables}), in_url, mark


@pytest.fixture(scope="session")
def own_certificate(tmp_path_factory):
    """A certificate for the public name, in PEM, and the settings that name its files."""
    folder = tmp_path_factory.mktemp("certificate")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "2", "-subj", "/CN=edge", "-addext", f"subjectAltName=DNS:{DOMAIN}",
         "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    key.chmod(0o644)  # the edge is not root
    settings = {"TLS_CERTIFICATE": str(certificate), "TLS_KEY": str(key)}
    return certificate.read_text(), settings
