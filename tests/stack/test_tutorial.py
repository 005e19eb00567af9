"""The tutorial and "move your project in": their files and commands, as they are printed."""

import os
import re
import shutil
import signal
import subprocess
import textwrap

import pytest

from support import ROOT
from support.harness import wait_until
from support.triggers import switched_on

STEP = re.compile(r"Create `(\S+)`:\n\n```python\n(.*?)```|((?:^    \S[^\n]*\n)+)", re.M | re.S)


def steps_of(page):
    """Each file with its text, and each block of commands, in the order of the page."""
    text = (ROOT / page).read_text()
    return [(match[1], match[2] or textwrap.dedent(match[3])) for match in STEP.finditer(text)]


def do(stack, step):
    file, text = step
    if file:
        (stack.root / file).parent.mkdir(parents=True, exist_ok=True)
        (stack.root / file).write_text(text)
        return
    done = subprocess.run(
        ["bash", "-ec", text], cwd=stack.root, env=stack.environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{text}{done.stdout}{done.stderr}"


def assets(stack):
    return {
        node["assetKey"]["path"][-1]
        for node in stack.graphql("{ assetNodes { assetKey { path } } }")["assetNodes"]
    }


@pytest.fixture
def watching():
    """Starts `make watch` for a stack; ends it with the test."""
    started = []

    def start(stack):
        log = stack.root / "watch.log"
        with log.open("w") as output:
            started.append(
                subprocess.Popen(
                    ["make", "watch"], cwd=stack.root, env=stack.environment,
                    stdout=output, stderr=output, start_new_session=True,
                )
            )  # fmt: skip

        def begun():
            return "Watch enabled" in log.read_text()

        wait_until(lambda: begun() or started[-1].poll() is not None, "make watch")
        assert begun(), log.read_text()

    yield start
    for process in started:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(60)


@pytest.mark.whole
def test_the_tutorial_leads_to_an_asset_with_a_schedule_and_a_check(new_stack):
    stack = new_stack("tutorial")
    steps = steps_of("docs/tutorial.md")
    *rest, last = steps
    assert last == (None, "make watch\n")
    for step in rest:
        do(stack, step)
    with switched_on(stack, "Schedule", "sales_every_minute"):
        (run,) = wait_until(
            lambda: stack.runs_tagged("dagster/schedule_name", "sales_every_minute")[-1:], "a run"
        )
        assert stack.finished(run["runId"]) == "SUCCESS"
    kinds = [event["__typename"] for event in stack.events(run["runId"])]
    assert {"MaterializationEvent", "AssetCheckEvaluationEvent"} <= set(kinds)


@pytest.mark.whole
def test_while_make_watch_runs_a_saved_file_is_served_and_run(new_stack, watching):
    """An error in a file shows, and goes with its cause. The web server stays."""
    stack = new_stack("watched")
    assert stack.verb("up").returncode == 0
    # What an earlier Compose has left, whose process number belongs to another program today.
    (stack.root / f"{stack.name}.pid").write_text(str(os.getpid()))
    stack.environment["XDG_RUNTIME_DIR"] = str(stack.root)
    watching(stack)
    assert "another watch of" in stack.verb("watch").stderr
    before = stack.inspect(stack.container_of("webserver"))["State"]["StartedAt"]
    file = stack.root / "code_location/src/code_location/defs/saved.py"
    file.write_text("import dagster as dg\n\n\n@dg.asset\ndef saved() -> int:\n    return 1\n")
    wait_until(lambda: "saved" in assets(stack), "the saved file")
    stack.run("__ASSET_JOB", assets=["saved"])
    good = file.read_text()
    file.write_text("def (:\n")
    wait_until(lambda: "SyntaxError" in stack.verb("status").stderr, "the error")
    file.write_text(good)
    wait_until(lambda: "saved" in assets(stack), "the mended file")
    assert stack.inspect(stack.container_of("webserver"))["State"]["StartedAt"] == before


@pytest.mark.whole
def test_a_project_moves_in_with_the_lines_that_are_printed(new_stack):
    stack = new_stack("moved")
    project = stack.root.parent / "their-project"
    shutil.copytree(ROOT / "tests/projects/shop", project)
    (project / ".env").write_text("DUCKDB_DATABASE=data/shop.duckdb\nSHOP_NAME=shop\n")
    first = steps_of("docs/how-to/move-your-project-in.md")[0]
    assert len(first[1].splitlines()) <= 5
    try:
        do(stack, first)
        stack.run("everything", location="their-project")
    finally:
        shutil.rmtree(project)
