"""What the run launcher says of a container that has ended."""

import pytest

from control_plane.code_server.usage import RUN_BEGINS
from control_plane.launcher.deaths import cause, last_lines


def state(**changed):
    return {"Status": "exited", "OOMKilled": False, "ExitCode": 0, "Error": "", **changed}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"ExitCode": 137, "OOMKilled": True}, "used more memory than its limit of 1g"),
        ({"ExitCode": 137}, "exit code 137. It was killed from outside (SIGKILL), and not for its"),
        ({"ExitCode": 143}, "exit code 143. It was stopped from outside (SIGTERM)"),
        ({"ExitCode": 139}, "exit code 139. Native code of a package crashed (SIGSEGV)"),
        # Another process of the container was killed for its memory before.
        ({"ExitCode": 139, "OOMKilled": True}, "Native code of a package crashed (SIGSEGV)"),
        ({"ExitCode": 152}, "exit code 152. It ended by the signal SIGXCPU."),
        ({"ExitCode": 255}, "ended with exit code 255."),
        ({"ExitCode": 1}, "ended with exit code 1 before it reported the run's end"),
        ({"ExitCode": 127}, "did not start: its command was not found (exit code 127)"),
        ({"ExitCode": 128, "Error": "no space left"}, "did not start: no space left"),
        ({"Status": "created"}, "was created and never started."),
        ({"Status": "created", "Error": "no such network"}, "never started. no such network"),
    ],
)
def test_the_end_of_a_container_is_told_in_words(changed, words):
    assert words in cause(state(**changed), "1g")


def test_the_last_lines_follow_and_none_is_no_block():
    assert last_lines(b"a\nb\n\xff\n", 2, "r") == "Its last lines:\n    b\n    \ufffd"
    assert last_lines(b"\n", 2, "r") == ""


@pytest.mark.parametrize(
    ("text", "own"),
    [
        ("begins: a\nof a\nbegins: r\nof r", "of r"),
        ("begins: r\nof r\nbegins: a\nof a", "of r"),
        ("of r\nalso of r", "of r\nalso of r"),
        # The container has executed others since.
        ("of somebody\nbegins: a\nof a", ""),
        ("begins: a\nof a\nbegins: r", ""),
    ],
)
def test_lines_of_other_runs_of_the_same_container_are_left_out(text, own):
    lines = last_lines(text.replace("begins: ", RUN_BEGINS).encode(), 50, "r")
    assert [one.strip() for one in lines.splitlines()[1:]] == own.splitlines()
