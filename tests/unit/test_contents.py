"""What a deploy says of the definitions that were added and removed."""

from types import SimpleNamespace

import pytest
from dagster_shared.error import SerializableErrorInfo

from control_plane.contents import as_answer
from support.cli import StackError, contents


def of(*assets):
    return contents.Contents(
        {"jobs": set(), "assets": set(assets), "schedules": set(), "sensors": set()}, {}, set()
    )


def test_of_many_names_the_first_are_shown_each_on_the_same_line():
    old, new = of("kept", "gone"), of("kept", *(f"a{n:02}" for n in range(30)))
    added, removed = contents.changes(old, new)
    assert added == f"assets added: {', '.join(f'a{n:02}' for n in range(20))} and 10 more"
    assert removed == "assets removed: gone"
    assert contents.changes(of(), of("two\nlines")) == ["assets added: two lines"]


def with_jobs(**jobs):
    """Code with one schedule, and one sensor, and what each launches."""
    names = {"jobs": {"old", "new"}, "assets": set(), "schedules": {"s"}, "sensors": {"t"}}
    return contents.Contents(names, {name: set(of) for name, of in jobs.items()}, {"s", "t"})


def test_a_job_may_be_renamed_together_with_the_schedule_that_launches_it():
    old, new = with_jobs(s=["old"], t=["old", "more"]), with_jobs(s=["new"], t=["more"])
    assert contents.missing(old, new) == []
    assert contents.moved(old, new) == [
        "s, which is switched on, launches new instead of old",
        "t, which is switched on, launches more instead of more, old",
    ]
    # Dagster's own job of the assets that a schedule selects.
    by_assets = with_jobs(s=["__anonymous_asset_job_s"], t=["old", "more"])
    assert contents.missing(old, by_assets) == []
    assert contents.moved(old, by_assets) == [
        "s, which is switched on, launches assets instead of old"
    ]


def test_what_is_on_and_is_gone_or_would_launch_nothing_is_named():
    old = with_jobs(s=["old"], t=["old"])
    assert contents.missing(old, with_jobs(t=[])) == [
        "s, which is switched on, is gone",
        "t, which is switched on, would launch nothing (now: old)",
    ]
    assert contents.moved(old, with_jobs(t=[])) == []
    # One that never launched anything, such as a sensor that reports failures.
    assert contents.missing(with_jobs(s=["old"], t=[]), with_jobs(s=["old"], t=[])) == []


def test_of_the_variables_of_a_project_only_the_names_are_said():
    old, new = (
        {"KEPT": "1", "TOKEN": "old", "GONE": "2"},
        {"KEPT": "1", "TOKEN": "new", "URL": ""},
    )
    assert contents.settings(old, new) == [
        "variables added: URL",
        "variables changed: TOKEN",
        "variables removed: GONE",
    ]
    assert contents.settings(old, {}) == ["variables removed: GONE, KEPT, TOKEN"]
    assert contents.settings(old, old) == []


class Answers:
    """In the place of a stack: what its web server says when it asks the new code server."""

    def __init__(self, said):
        self.said = said

    def compose(self, *arguments):
        if arguments[0] == "exec":
            raise StackError(f"docker compose exec: {self.said}")
        return SimpleNamespace(stdout="server\n")


@pytest.fixture
def ask(monkeypatch):
    """Asks what a new image defines, where the web server answers so, and the server has ended."""
    monkeypatch.setattr(contents, "docker", lambda *_: "/server\n")
    monkeypatch.setattr(contents.deploys, "hand_over", lambda *_: None)
    healthy = iter([None, StackError("the code ended its process with exit status 3")])

    def wait_until_healthy(_):
        reason = next(healthy)
        if reason:
            raise reason

    monkeypatch.setattr(contents.deploys, "wait_until_healthy", wait_until_healthy)

    def built(said):
        with pytest.raises(StackError) as refused:
            contents.built(Answers(said), Answers(said), "code_location")
        return str(refused.value)

    return built


def test_after_git_pull_alone_a_deploy_says_that_make_up_comes_first(ask):
    said = ask("/opt/dagster/bin/python: No module named control_plane.contents")
    assert said == "the web server has an earlier version: make up first"


def test_of_a_server_that_ends_when_it_is_asked_a_deploy_says_so(ask):
    assert ask("Socket closed") == "the code ended its process with exit status 3"


def frame(file, line):
    return f'  File "{file}", line {line}, in f\n    f()\n'


LOADER = [frame(f"/opt/dagster/lib/dagster/{name}.py", 1) for name in "abcdef"]


def test_an_error_keeps_the_frames_of_the_user_s_code_and_where_it_was_raised():
    mine, raised = frame("/opt/code/src/shop/defs/a.py", 7), frame("/opt/dagster/lib/pandas.py", 9)
    cause = SerializableErrorInfo("OSError: no file\n", [*LOADER, raised], "OSError")
    wrapped = SerializableErrorInfo(
        "ValueError: two\nlines\n", [*LOADER, mine, *LOADER, raised], "ValueError", cause, cause
    )
    outer = SerializableErrorInfo("LoadError: while loading\n", LOADER, "LoadError", wrapped)
    answer = as_answer(outer)
    assert answer["messages"] == [cause.message, wrapped.message, outer.message]
    assert answer["place"] == 'File "/opt/code/src/shop/defs/a.py", line 7'
    heading = "Traceback (most recent call last):\n"
    assert answer["error"].split("\n\n") == [
        f"{heading}{''.join(LOADER[-2:])}{raised}OSError: no file",
        f"{heading}{mine}{raised}ValueError: two\nlines",
        "(22 frames of Dagster and other packages are not shown)",
    ]


def test_an_error_without_a_frame_keeps_its_message():
    answer = as_answer(SerializableErrorInfo("SyntaxError: invalid syntax\n", [], "SyntaxError"))
    assert answer["error"] == "SyntaxError: invalid syntax"
