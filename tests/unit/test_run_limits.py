"""What a run may use, by its tags."""

import pytest

from control_plane.launcher.limits import BadLimit, limits_of, runs_of

MOST = {"mem_limit": "1g", "nano_cpus": 1_000_000_000, "pids_limit": 512, "shm_size": "64m"}


def test_tags_become_limits_of_the_container():
    tags = {
        "dagster-docker/memory": "256m",
        "dagster-docker/cpus": "0.5",
        "dagster-docker/processes": "64",
        "team": "finance",
    }
    assert limits_of(tags, MOST) == {
        "mem_limit": "256m",
        "nano_cpus": 500_000_000,
        "pids_limit": 64,
    }


@pytest.mark.parametrize(
    ("tag", "value"), [("memory", "1g"), ("memory", "1024m"), ("cpus", "1"), ("processes", "512")]
)
def test_all_that_dagster_yaml_allows_can_be_had(tag, value):
    assert limits_of({f"dagster-docker/{tag}": value}, MOST)


@pytest.mark.parametrize(
    ("tag", "value", "said"),
    [
        ("memory", "2g", "is 2g, and dagster.yaml allows at most 1g"),
        ("memory", "0m", "is '0m': use for example 512m"),
        ("memory", "1025m", "allows at most 1g"),
        ("memory", "512", "is '512': use for example 512m or 2g"),
        ("memory", "1k", "is '1k': use for example 512m or 2g"),
        ("cpus", "0.0001", "use for example 0.5 or 2"),
        ("processes", "1", "use for example 256"),
        ("cpu", "1", "there is no tag dagster-docker/cpu: use dagster-docker/memory, "),
        ("memory", "-1g", "use for example 512m"),
        ("cpus", "1.5", "allows at most 1.0 (run_launcher, container_kwargs, nano_cpus)"),
        ("cpus", "two", "use for example 0.5 or 2"),
        ("cpus", "1e9", "use for example 0.5 or 2"),
        ("cpus", "0", "use for example 0.5 or 2"),
        ("processes", "513", "allows at most 512"),
        ("processes", "1.5", "use for example 256"),
    ],
)
def test_more_or_something_else_is_refused_by_the_tag_s_name(tag, value, said):
    with pytest.raises(BadLimit) as refused:
        limits_of({f"dagster-docker/{tag}": value}, MOST)
    assert f"tag dagster-docker/{tag}" in str(refused.value)
    assert said in str(refused.value)


def test_without_a_limit_in_dagster_yaml_the_guard_decides():
    assert limits_of({"dagster-docker/memory": "64g"}, {}) == {"mem_limit": "64g"}


@pytest.mark.parametrize(
    ("tag", "usual", "runs"),
    [(None, 1, 1), (None, 25, 25), ("enabled", 25, 1), ("disabled", 1, 25), ("disabled", 99, 99)],
)
def test_a_run_can_have_a_container_of_its_own_or_share_one_whatever_is_usual(tag, usual, runs):
    assert runs_of({"dagster/isolation": tag} if tag else {}, usual) == runs


def test_another_value_of_the_isolation_tag_is_refused():
    with pytest.raises(BadLimit, match="dagster/isolation is 'none': use enabled or disabled"):
        runs_of({"dagster/isolation": "none"}, 1)
