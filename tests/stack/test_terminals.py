"""What user code prints reaches the operator's terminal as text, and does nothing there."""

import os
import pty
import subprocess

import pytest

from support.cli import COMMAND


def in_a_terminal(stack, *arguments):
    """Runs an operator's command on a terminal; returns what the terminal is sent."""
    mine, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *arguments], cwd=stack.root, env=stack.environment,
        stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    sent = b""
    try:
        while more := os.read(mine, 65536):
            sent += more
    except OSError:  # the other end is closed
        pass
    os.close(mine)
    assert process.wait() == 0, sent
    return sent.decode()


@pytest.fixture(scope="module")
def run(stack):
    return stack.run("control_sequences")


@pytest.mark.parametrize("of_a_run", [True, False])
def test_control_sequences_reach_the_terminal_as_text(stack, run, of_a_run):
    # The services' logs have no run's output; but the sign-in's has what a client says it is.
    arguments = [run] if of_a_run else []
    if not of_a_run:
        service = stack.container_of("daemon")
        write = "open('/proc/1/fd/1', 'wb').write(b'\\x1b]0;owned\\x07 end\\n')"
        subprocess.run(["docker", "exec", service, "python", "-c", write], check=True)
    sent = in_a_terminal(stack, "logs", *arguments)
    allowed = set("\r\n\t")
    assert not {one for one in sent if not (one.isprintable() or one in allowed)}
    # A terminal puts a carriage return before each line feed, and nowhere else.
    assert "\r" not in sent.replace("\r\n", "")
    assert r"\x1b]0;owned\x07" in sent
    if of_a_run:
        assert r"\rback" in sent
        assert r"\u202e gnirts\x00" in sent


def test_output_to_a_pipe_is_unchanged(stack, run):
    done = subprocess.run(
        [*COMMAND, "logs", run],
        cwd=stack.root, env=stack.environment, capture_output=True, check=True,
    )  # fmt: skip
    assert b"\x1b]0;owned\x07" in done.stdout + done.stderr
