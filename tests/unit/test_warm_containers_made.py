"""What the daemon goes on making containers for, while no run is launched."""

import threading
from types import SimpleNamespace

import pytest
from docker.errors import APIError, DockerException
from requests import Response

from control_plane.guard.policy import TOO_MANY
from control_plane.launcher.shapes import Shape
from control_plane.launcher.warm import WarmContainers

SHAPE = Shape("code_location", "sha256:1", {}, "runs", {}, "{}", 1)


def answered(status, text):
    response = Response()
    response.status_code = status
    return APIError(text, response, text)


@pytest.fixture
def filled_with(monkeypatch):
    """What is still wanted after the engine, or the guard, has given an error."""

    def fill(error):
        warm = WarmContainers(SimpleNamespace(get_runs_count=lambda _: 0), size=1)
        warm.wanted["code_location", 1] = SHAPE
        monkeypatch.setattr(Shape, "fits", "one")
        monkeypatch.setattr(warm, "_sql", lambda *_, **__: [[0]])
        monkeypatch.setattr(warm, "_make", lambda _: (_ for _ in ()).throw(error))
        filling = threading.Thread(target=warm._fill, daemon=True)
        filling.start()
        filling.join(10)
        assert not filling.is_alive()
        return list(warm.wanted.values())

    return fill


def test_what_the_guard_refuses_is_not_asked_for_again(filled_with):
    refused = answered(403, "guard: refused: HostConfig.PidMode differs from dagster.yaml")
    assert filled_with(refused) == []


@pytest.mark.parametrize(
    "error",
    [
        DockerException("Error while fetching server API version"),
        answered(500, "no space left on device"),
        answered(403, f"guard: refused: 64 {TOO_MANY}, 64 may be"),
    ],
    ids=["the guard is away", "the engine cannot", "the stack is full"],
)
def test_what_can_be_made_later_is_still_wanted(filled_with, error):
    assert filled_with(error) == [SHAPE]
