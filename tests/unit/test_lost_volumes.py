"""Which volumes the operator is told to have lost."""

from unittest.mock import Mock

import pytest

from support.cli import health

DATA = "postgres-data", "io-storage", "compute-logs", "inbox"


@pytest.mark.parametrize(
    ("there", "lost"),
    [
        ((), []),  # a first start
        (DATA, []),
        (("postgres-data", "compute-logs", "inbox"), ["s_io-storage"]),
        (("sign-in-credentials",), [f"s_{name}" for name in DATA]),
    ],
)
def test_a_volume_is_lost_if_the_stack_has_others(monkeypatch, there, lost):
    names = "\n".join(f"s_{name}" for name in there)
    monkeypatch.setattr(health, "docker", lambda *_: names)
    volumes = {name: {"name": f"s_{name}"} for name in (*DATA, "sign-in-credentials")}
    stack = Mock(config={"volumes": volumes})
    stack.name = "s"
    assert health.lost_volumes(stack) == lost
