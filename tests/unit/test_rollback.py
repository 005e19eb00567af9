"""Which image a rollback goes back to."""

import pytest

from support.cli import rollback


@pytest.mark.parametrize(
    ("history", "images"),
    [
        ("up A, deploy B", "AB"),
        ("up A, deploy B, rollback A", "A"),
        ("up A, deploy B, deploy C, rollback B, rollback A, deploy D", "AD"),
        # An edit that was undone has the image of before.
        ("up A, deploy B, deploy A", "ABA"),
        ("up A, deploy B, deploy A, rollback B", "AB"),
        ("up A, deploy B, deploy A, rollback B, rollback A", "A"),
        # One that was interrupted, whether its code was live or not.
        ("up A, unfinished B", "A"),
        ("up A, unfinished B, deploy C, rollback A", "A"),
        # Of a history that does not begin with it.
        ("deploy B, rollback A", "BA"),
    ],
)
def test_each_rollback_goes_one_step_further_back(history, images):
    rows = [dict(zip(("verb", "image"), one.split(), strict=True)) for one in history.split(", ")]
    assert "".join(rollback.steps(rows)) == images
