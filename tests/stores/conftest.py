import pytest


@pytest.fixture(scope="session")
def warehouse(new_stack):
    """A stack with both code locations and the stores, started and healthy."""
    made = new_stack(
        "dagster-test-warehouse",
        COMPOSE_PROFILES="warehouse",
        WORKSPACE="locations/warehouse/workspace.yaml",
    )
    done = made.verb("up")
    assert done.returncode == 0, f"{done.stdout}{done.stderr}{made.diagnosis()}"
    return made
