"""Schedules and sensors of a stack, switched on for a while."""

from contextlib import contextmanager

from support.harness import wait_until


def selector_of(location):
    return {"repositoryLocationName": location, "repositoryName": "__repository__"}


@contextmanager
def switched_on(stack, kind, name, location="code_location"):
    """A schedule or sensor that is on for as long as the block lasts."""
    kind_ = kind.lower()
    stack.graphql(
        f"""mutation On($selector: {kind}Selector!) {{
            start{kind}({kind_}Selector: $selector) {{ __typename }} }}""",
        selector={**selector_of(location), f"{kind_}Name": name},
    )
    state = instigator(stack, kind, name, location)
    assert state["status"] == "RUNNING"
    if kind == "Sensor":
        # Its first tick takes note of how things are: what came before it is nothing new.
        wait_until(lambda: ended_ticks(stack, kind, name, location), f"the first tick of {name}")
    try:
        yield
    finally:
        stop = "stopRunningSchedule" if kind == "Schedule" else "stopSensor"
        stack.graphql(
            f"mutation Off($id: String!) {{ {stop}(id: $id) {{ __typename }} }}", id=state["id"]
        )
        assert instigator(stack, kind, name, location)["status"] == "STOPPED"


def instigator(stack, kind, name, location="code_location"):
    kind_ = kind.lower()
    data = stack.graphql(
        f"""query State($selector: {kind}Selector!) {{
              {kind_}OrError({kind_}Selector: $selector) {{
              ... on {kind} {{ {kind_}State {{ id status
                ticks(limit: 20) {{ status error {{ message causes {{ message }} }} }}
              }} }} }} }}""",
        selector={**selector_of(location), f"{kind_}Name": name},
    )
    return data[f"{kind_}OrError"][f"{kind_}State"]


def ended_ticks(stack, kind, name, location):
    return [t for t in instigator(stack, kind, name, location)["ticks"] if t["status"] != "STARTED"]
