"""What was interrupted, and what the web server refuses, is named in one short line."""

import http.server
import json
import threading
from unittest.mock import Mock

import pytest

from support.cli import Client, Endpoint, Finding, StackError, locks, marks, rotate, secret


@pytest.fixture
def engine(monkeypatch):
    """What a verb asks of an engine that has the volumes of a stack named `one`."""
    asked = []
    monkeypatch.setattr(marks, "docker", lambda *words: asked.append(words) or "")
    return asked


@pytest.mark.parametrize("fails_at", [None, 1, 2, 5])
def test_a_rotation_has_a_mark_from_its_first_step_until_the_last_one_has_succeeded(
    fails_at, engine, tmp_path
):
    steps = []

    def compose(*words, check=True):
        steps.append(words)
        assert any("one_rotating" in words for words in engine)
        if len(steps) == fails_at:
            raise StackError("no")

    stack = Mock(root=tmp_path, compose=compose, **{"services.return_value": {
        "postgres": {"State": "running"}}})  # fmt: skip
    stack.name = "one"
    if fails_at:
        with pytest.raises(StackError, match="no"):
            rotate.run(stack, None)
    else:
        rotate.run(stack, None)
        assert len(steps) == 5
    assert (("volume", "rm", "one_rotating") in engine) == (not fails_at)
    with locks.alone(stack, "rotate"):
        pass


def test_a_restore_is_marked_for_compose_too_and_its_marks_outlive_the_data(monkeypatch):
    there = ["one_io-storage", "one_postgres-credentials", "one_postgres-data", "one_restoring"]
    did = []

    def docker(*words):
        did.append(words)
        return "\n".join(there) if words[1] == "ls" else ""

    monkeypatch.setattr(marks, "docker", docker)
    stack = Mock(config={"volumes": {marks.VOLUME: {"name": "one_postgres-credentials"}}})
    stack.name = "one"
    stack.compose = lambda *words: did.append(words)
    marks.begin_restore(stack)
    assert (did[0][-1], did[1][-2:]) == ("one_restoring", ("touch", marks.FILE))
    marks.empty(stack)
    assert did[-1] == ("volume", "rm", "one_io-storage", "one_postgres-data")
    with pytest.raises(StackError, match="a restore of one was interrupted"):
        marks.refuse_half_restored(stack)
    marks.end_restore(stack)
    assert did[-2][-2:] == (marks.FILE, marks.MOVED)
    assert did[-1] == ("volume", "rm", "one_restoring")


@pytest.mark.parametrize("value", ["secret:password", "'secret:password'", "secret:password # old"])
def test_a_secret_that_is_in_use_is_not_removed(value, tmp_path):
    (tmp_path / ".env").write_text(f"OTHER=secret:passwords\nPASSWORD={value}\n")
    stack = Mock(projects={"code_location": tmp_path})
    with pytest.raises(StackError, match="first take out the line PASSWORD, and make deploy"):
        secret.refuse_named(stack, "code_location", "password")
    secret.refuse_named(stack, "code_location", "word")
    secret.refuse_named(stack, "another", "password")


TRACE = "\n".join(f'  File "/opt/dagster/{line}.py", line {line}' for line in range(200))


@pytest.mark.parametrize(
    ("status", "text", "said"),
    [
        (
            401,
            "Sign in",
            "refuses the password that is stored (401). If a rotation was interrupted",
        ),
        (500, json.dumps({"errors": [{"message": f"no database\n{TRACE}"}]}), "500: no database"),
        (200, json.dumps({"errors": [{"message": "no field"}], "data": None}), "200: no field"),
        (502, f"bad gateway\n{TRACE}", "502: bad gateway"),
        (200, "<html>", "200: <html>"),
    ],
)
def test_an_error_of_the_web_server_is_its_first_line(status, text, said):
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *words):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.handle_request).start()
        client = Client(Endpoint("127.0.0.1", server.server_port, None), "dagster", "x")
        with pytest.raises(StackError) as refused:
            client.graphql("{ version }")
    assert said in str(refused.value)
    assert TRACE not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_finding_is_one_line_of_at_most_300_characters():
    assert Finding("a", f"no database\n{TRACE}", "b").cut() == Finding("a", "no database", "b")
    assert len(Finding("a", "x" * 7000, "b").cut().what) == 300
