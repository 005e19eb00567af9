"""Show the health of each service. The exit status is 1 if something is wrong."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace

from cli import health, marks
from cli.errors import StackError
from cli.output import say, table
from cli.stack import Stack


def add(parser: ArgumentParser) -> None:
    """The flags."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(stack: Stack, flags: Namespace) -> None:
    """Raises StackError that names what is wrong and what to do."""
    marks.refuse_half_restored(stack)
    states = stack.services()
    rows = [["part", "state", "health", "since"]]
    for service in stack.config["services"]:
        state = states.get(service)
        if state is None:
            rows.append([service, "absent", "", ""])
        else:
            done = health.is_done(state)
            shown = "done" if done else state["State"]
            rows.append([service, shown, state["Health"], state["Status"]])
    runs = len(stack.run_containers(running_only=True))
    is_up = any(state["State"] == "running" for state in states.values())
    problems = health.problems(stack) if is_up else [f"the stack {stack.name} is not up: make up"]
    if upgrade := marks.unfinished_upgrade(stack):
        problems = [f"upgrade: {upgrade}", *problems]
    if flags.json:
        parts = [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
        result = {"stack": stack.name, "url": stack.ui_url, "parts": parts}
        print(json.dumps({**result, "run_containers": runs, "problems": problems}))
    else:
        say(table([*rows, ["run containers", f"{runs} running", "", ""]]))
    if problems:
        raise StackError(" | ".join(problems))
    if not flags.json:
        print(f"\nAll well: {stack.ui_url}")
