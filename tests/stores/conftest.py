import pytest


@pytest.fixture(scope="package")
def warehouse(stacks):
    """A stack with both code locations and the stores, started and healthy."""
    made = stacks.make(
        "warehouse",
        COMPOSE_PROFILES="warehouse",
    )
    done = made.verb("up")
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    yield made
    stacks.remove(made)
