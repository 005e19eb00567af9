import json
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from urllib.parse import quote

import pytest

ROOT = Path(__file__).resolve().parent.parent

# The operator's commands are scripts, not a package.
PATHS = (
    ".",
    "cli",
    "machine",
    "tests",
    "code_location/src",
    "locations/warehouse",
    "locations/warehouse/src",
)
sys.path[:0] = [str(ROOT / path) for path in PATHS]

STARTED = []


@pytest.fixture(scope="session")
def new_stack(tmp_path_factory):
    """Makes stacks that are not started yet; destroys them all at the end."""
    from harness import TestStack, checkout

    def make(name, **settings):
        root = checkout(tmp_path_factory.mktemp(name))
        made = TestStack(root, name, **settings)
        STARTED.append(made)
        return made

    yield make
    while STARTED:
        STARTED.pop().verb("destroy", FORCE="1")


@pytest.fixture(scope="session")
def stack(new_stack):
    """The stack that most tests share, started and healthy.

    It has one more file in code_location/: jobs that hang, fail and talk, which nobody wants in
    their UI.
    """
    from harness import EXTRA_DEFINITIONS

    made = new_stack(
        "dagster-test",
        NOTIFICATION_WEBHOOK_URL="http://webhook:8080/",
        COMPOSE_PROFILES="viewer",
    )
    shutil.copy(
        EXTRA_DEFINITIONS, made.root / "code_location/src/code_location/defs/extra_definitions.py"
    )
    done = made.verb("up")
    assert done.returncode == 0, f"{done.stdout}{done.stderr}{made.diagnosis()}"
    return made


@pytest.fixture
def launch():
    """A mutation that launches a run: as JSON, as a query string, and what marks the run."""
    from stack import LAUNCH

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


@pytest.fixture
def own_certificate(tmp_path):
    """A certificate for the public name, in PEM, and the settings that name its files."""
    from harness import DOMAIN

    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "2", "-subj", "/CN=edge", "-addext", f"subjectAltName=DNS:{DOMAIN}",
         "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    key.chmod(0o644)  # the edge is not root
    settings = {"TLS_CERTIFICATE": str(certificate), "TLS_KEY": str(key)}
    return certificate.read_text(), settings


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.when == "call" and report.failed:
        for started in STARTED:
            report.sections.append(
                (f"containers of {started.environment['STACK_NAME']}", started.diagnosis())
            )
