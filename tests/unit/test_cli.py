"""The command line without Docker: what it runs, what it refuses, and how it is laid out."""

import ast
import io
import subprocess
from pathlib import Path
from unittest.mock import Mock

import pytest

from support import ROOT
from support.cli import (
    VERBS,
    Stack,
    StackError,
    ask,
    builds,
    commands,
    containers,
    dotenv,
    health,
    main,
    name_of,
    outdated,
    piped,
    secret,
    settings,
    values,
)

# Without what `make location` copies.
MODULES = sorted(path for path in (ROOT / "cli").rglob("*.py") if "project" not in path.parts)


def test_compose_is_given_the_settings_of_the_machine_and_then_those_of_the_operator(tmp_path):
    (tmp_path / ".env").touch()
    assert commands.compose(tmp_path, "ps") == ["docker", "compose", "--env-file=.env", "ps"]
    (tmp_path / ".machine.env").touch()
    files = [word for word in commands.compose(tmp_path, "ps") if word.startswith("--env-file")]
    assert files == ["--env-file=.machine.env", "--env-file=.env"]


def test_a_start_never_builds_so_that_an_image_has_the_revision_that_its_build_was_given():
    assert "--no-build" in commands.start()
    assert commands.start("code_location")[-1] == "code_location"
    # Of a part of the stack the rest are no orphans.
    assert "--remove-orphans" in commands.start()
    assert "--remove-orphans" not in commands.start("code_location")


def test_only_destroy_deletes_volumes():
    assert "--volumes" not in commands.down()
    assert "--volumes" in commands.down(volumes=True)


def test_logs_name_the_services_because_compose_leaves_out_those_it_does_not_attach():
    assert commands.logs(["edge", "daemon"], follow=True)[-3:] == ["--follow", "edge", "daemon"]


def test_run_containers_are_found_by_the_labels_of_one_stack():
    command = commands.run_containers("blue", running_only=True)
    assert "--all" not in command
    assert "--filter=label=dagster/stack=blue" in command


def test_a_step_that_runs_again_can_write_to_no_volume_of_the_stack():
    host = {
        "Binds": ["blue_io:/var/lib/dagster/storage", "blue_data:/var/lib/dagster/data:rw"],
        "NetworkMode": "blue_runs", "Memory": 1, "PidsLimit": None, "SecurityOpt": None,
        "Tmpfs": None,
    }  # fmt: skip
    made = {"HostConfig": host, "Image": "sha256:1", "Config": {"Cmd": ["a", "b", "c", "{}"]}}
    command = containers.run_step("blue", made, ["TOKEN"], "op", terminal=False)
    assert [word for word in command if word.startswith("--volume=")] == [
        "--volume=blue_io:/var/lib/dagster/storage:ro",
        "--volume=blue_data:/var/lib/dagster/data-of-runs:ro",
        "--volume=/var/lib/dagster/data",
    ]
    assert "--env=TOKEN" in command
    assert "--memory=1" in command
    assert not [word for word in command if "None" in word]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("HTTP_PORT=3000", {"HTTP_PORT": "3000"}),
        ("export HTTP_PORT=3000", {"HTTP_PORT": "3000"}),
        ("#HTTP_PORT=3000\n\n", {}),
        ("STACK_NAME = 'blue'", {"STACK_NAME": "blue"}),
        ("STACK_NAME=blue # mine", {"STACK_NAME": "blue"}),
        ("A=\nB=2", {"A": "", "B": "2"}),
        ('KEY="-----BEGIN\nQUJD==\nREQ="\nB=2', {"KEY": "-----BEGIN", "B": "2"}),
        ("\ufeffA=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
        ("A=1\rB=2\r", {"A": "1\rB=2"}),
        ("A: 1", {"A": "1"}),
    ],
)
def test_the_names_in_a_dotenv_file_are_those_that_compose_reads(text, found):
    assert dotenv.read(text) == found


@pytest.fixture
def repository(tmp_path):
    """The example of the settings, and code of a user that reads a variable."""
    (tmp_path / ".env.example").write_text((ROOT / ".env.example").read_text())
    (tmp_path / "dagster.yaml").write_text("env_vars: [WAREHOUSE_URL]\n")
    (tmp_path / "code_location").mkdir()
    (tmp_path / "code_location/assets.py").write_text('EnvVar("HTTP_PORTS")\n')
    return tmp_path


@pytest.mark.parametrize(
    ("name", "near"),
    [("HTP_PORT", "HTTP_PORT"), ("http_port", "HTTP_PORT"), ("BIND_ADRESS", "BIND_ADDRESS"),
     ("COMPOSE_PROFILE", "COMPOSE_PROFILES"), ("AWS_ACCESS_KEY_ID", "")],
)  # fmt: skip
def test_a_name_that_nothing_reads_is_found_with_the_nearest_setting(repository, name, near):
    assert dotenv.unread(repository, [name]) == {name: near}


@pytest.mark.parametrize(
    "name", ["HTTP_PORT", "WAREHOUSE_URL", "HTTP_PORTS", "COMPOSE_PROJECT_NAME", "https_proxy"]
)
def test_a_name_that_something_reads_is_no_mistake(repository, name):
    assert dotenv.unread(repository, [name]) == {}


@pytest.mark.parametrize("wrong", [["nope"], [], ["status", "--jsn"], ["up", "now"]])
def test_a_wrong_verb_or_flag_gets_a_usage_line_and_status_2(capsys, wrong):
    with pytest.raises(SystemExit) as ended:
        main(wrong)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("usage: ./stack")


def imported(path):
    """Top-level names of what a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_of_the_command_line_is_small_and_needs_only_the_standard_library(path):
    import sys

    # store.py reads the object store's file as the images do.
    shared = {"control_plane"} if path.name == "store.py" else set()
    assert set(imported(path)) <= {*sys.stdlib_module_names, "cli"} | shared
    lines = len(path.read_text().splitlines())
    assert lines <= (80 if path.parent.name == "verbs" else 200)


def test_what_the_command_line_shares_with_the_images_needs_only_the_standard_library():
    code = "import cli.store, sys; print([m for m in ('dagster', 'boto3') if m in sys.modules])"
    done = subprocess.run(
        ["python3", "-I", "-S", "-c", f"import sys; sys.path.insert(0, '.'); {code}"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "[]\n"


def test_each_verb_is_a_module_and_each_module_a_verb():
    files = {path.stem for path in (ROOT / "cli/verbs").glob("*.py")} - {"__init__"}
    assert {name.replace("_", "-") for name in files} == {name_of(verb) for verb in VERBS}


def test_only_up_demo_restore_and_upgrade_prepare_the_machine():
    """`status`, `logs` and `credentials` neither install nor pull."""
    users = {path.stem for path in MODULES if "setup.sh" in path.read_text()}
    assert users == {"restore", "up"}
    assert Path(ROOT / "stack").read_text().count("machine/setup.sh") == 1


@pytest.mark.parametrize("verb", ["status", "credentials", "logs", "down", "destroy"])
def test_without_docker_a_verb_says_so_in_one_line(verb, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        main([verb])
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said == f"{verb}: docker is not installed on this machine: make up installs it\n"


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("STACK_NAME", ["a", "blue-2", "a__b", "a--b"], ["My Stack!", "a_", "-a", "a___b", "é"]),
        ("HTTP_PORT", ["1", "3000", "65535"], ["0", "65536", "70000", "-1", "3000-3010", "x"]),
        ("DOMAIN", ["dagster.example.com"], ["https://dagster.example.com", "a/b"]),
        (
            "UI_URL",
            ["https://a.example:1/x", "http://[::1]:3000"],
            ["a.example", "http://[::1", "http://x:99999", "http://x:abc"],
        ),
        ("BIND_ADDRESS", ["10.0.0.1", "[::1]"], ["::1", "localhost"]),
        ("DOCKER_SOCKET", ["/run/user/1/docker.sock"], ["unix:///run/docker.sock", "d.sock"]),
        ("ALLOW_ASSET_REPORTS", ["0", "1"], ["yes"]),
    ],
)
def test_a_value_that_cannot_work_is_refused_by_the_name_of_its_setting(name, right, wrong):
    for value in [*right, "", "${OTHER}"]:
        values.refuse_wrong({name: value})
    for value in wrong:
        with pytest.raises(StackError, match=f"^{name}="):
            values.refuse_wrong({}, {name: value})
        values.refuse_wrong({name: right[0]}, {name: value})  # the environment wins


def test_all_settings_with_a_wrong_value_are_named_at_once():
    with pytest.raises(StackError, match=r"HTTP_PORT='x' .* \| BACKUP_KEEP='0' "):
        values.refuse_wrong({"HTTP_PORT": "x", "BACKUP_KEEP": "0", "LOST_TICKS": "show"})


def test_the_revision_of_your_code_says_when_it_was_built_with_uncommitted_changes(tmp_path):
    def git(*words):
        who = "-c", "user.name=x", "-c", "user.email=x@example.com"
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)

    def revision():
        return builds.versions(ROOT, code)["CODE_REVISION"]

    code = tmp_path / "code"
    code.mkdir()
    assert revision() == "unknown"
    (code / "a.py").touch()
    git("init")
    git("add", ".")
    git("commit", "--message=x")
    committed = revision()
    (tmp_path / "beside").touch()
    assert revision() == committed
    (code / "b.py").touch()
    assert revision() == f"{committed}+uncommitted"


@pytest.mark.parametrize("content", [b"FOO=\xff\nHTTP_PORT=0\n", b'HTTP_PORT=0\nA="never ends\n'])
def test_a_dotenv_file_that_is_no_text_ends_no_verb_in_a_traceback(tmp_path, content):
    (tmp_path / ".env").write_bytes(content)
    with pytest.raises(StackError, match="HTTP_PORT='0'"):
        _ = Stack(tmp_path, {"HTTP_PORT": ""}).config


def test_an_error_that_nothing_expected_is_one_line_too(monkeypatch, capsys):
    def broken(self):
        raise OSError("No space left on device")

    monkeypatch.setattr(Stack, "services", broken)
    with pytest.raises(SystemExit) as ended:
        main(["status"])
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("status: unexpected: OSError: No space left on device")


def test_the_command_line_works_through_a_link_from_another_folder(tmp_path):
    link = tmp_path / "stack"
    link.symlink_to(ROOT / "stack")
    done = subprocess.run([link, "--help"], cwd=tmp_path, capture_output=True, check=False)
    assert (done.returncode, b"usage: ./stack" in done.stdout) == (0, True)


def test_a_verb_that_could_not_say_all_has_not_succeeded(monkeypatch):
    monkeypatch.setattr("sys.stderr", io.StringIO())
    monkeypatch.setattr(Stack, "services", Mock(side_effect=BrokenPipeError))
    with pytest.raises(SystemExit) as ended:
        main(["status"])
    assert ended.value.code == 141


@pytest.mark.parametrize(("others", "written"), [([], {".env"}), (["first"], set())])
def test_a_restore_writes_no_override_and_no_env_that_another_stack_would_use(
    others, written, monkeypatch, tmp_path
):
    names = ".env", "docker-compose.override.yml"
    monkeypatch.setattr(settings, "paths", lambda stack: {name: tmp_path / name for name in names})
    monkeypatch.setattr(settings, "other_stacks", lambda stack: others)
    stack = Mock(environment={})
    stack.name = "copy"
    settings.put(stack, dict.fromkeys(names, "A=1\n"))
    assert {one.name for one in tmp_path.iterdir() if one.name in names} == written
    assert (tmp_path / "docker-compose.override.yml.from-backup").exists()


@pytest.mark.parametrize(
    ("there", "differs"),
    [
        ("A=1\nHTTP_PORT=3000\n", False),  # the original's, which the backup has
        ("STACK_NAME=copy\nHTTP_PORT=3100\nA=1\n", False),
        ("A=1\n", False),
        ("A=2\nHTTP_PORT=3000\n", True),
    ],
)
def test_an_env_that_differs_only_in_what_a_restore_adds_stays_without_a_note(
    there, differs, monkeypatch, tmp_path, capsys
):
    file = tmp_path / ".env"
    file.write_text(there)
    monkeypatch.setattr(settings, "paths", lambda stack: {".env": file})
    monkeypatch.setattr(settings, "other_stacks", lambda stack: [])
    stack = Mock(environment={"HTTP_PORT": "3100"})
    stack.name = "copy"
    settings.put(stack, {".env": "A=1\nHTTP_PORT=3000\n"})
    assert file.read_text() == there
    assert ("stays as it is" in capsys.readouterr().err) == differs
    assert (tmp_path / ".env.from-backup").exists() == differs


def test_images_that_were_live_stay_before_those_that_a_deploy_refused(monkeypatch):
    # Five earlier images, the newest first; two of them were live, "d" after "e".
    built = "\n".join(f"{9 - n} {one} code_location" for n, one in enumerate("abcde"))
    removed = []

    def docker(*words):
        if words[:2] == ("image", "rm"):
            removed.append(words[2])
        return {"ls": "a b c d e", "inspect": built}.get(words[1], "")

    def rows(stack, query):
        return [{"image": "d"}, {"image": "e"}] if query == outdated.LIVE else []

    monkeypatch.setattr(outdated, "docker", docker)
    monkeypatch.setattr(outdated.database, "rows", rows)
    outdated.remove_images(Mock())
    assert removed == ["b", "c"]


@pytest.mark.parametrize(("handed_over", "is_new"), [("TOKEN=1\n", True), ("", False)])
def test_a_project_whose_env_was_deleted_has_new_settings(handed_over, is_new, tmp_path):
    server = Mock(returncode=0, stdout=handed_over)
    stack = Mock(projects={"shop": tmp_path}, **{"compose.return_value": server})
    stack.services.return_value = {"shop": {"ID": "1"}}
    assert outdated.has_new_settings(stack, "shop") == is_new
    assert outdated.deleted_settings(stack) == (["shop"] if is_new else [])
    server.returncode = 1  # it does not run
    assert not outdated.has_new_settings(stack, "shop")


def test_a_container_that_removes_itself_is_waited_for(monkeypatch):
    refusals = ["removal of container 1 is already in progress"] * 2
    asked = []

    def docker(*command):
        asked.append(command)
        if refusals:
            raise StackError(refusals.pop())

    monkeypatch.setattr(outdated, "docker", docker)
    outdated.remove_containers("1", "2")
    assert asked == [("rm", "--force", "--volumes", "1", "2")] * 3
    outdated.remove_containers()
    assert len(asked) == 3
    refusals = ["no"] * 9
    monkeypatch.setattr(outdated, "REMOVAL_SECONDS", 0)
    with pytest.raises(StackError, match="no"):
        outdated.remove_containers("1")


@pytest.mark.parametrize(
    ("given", "stored"),
    [("one\n", "one"), ("one\r\n", "one"), ("a\nb\n", "a\nb\n"), ("a\r\nb\r\n", "a\r\nb\r\n")],
)
def test_the_end_of_a_single_line_is_no_part_of_a_secret(given, stored, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given.encode())))
    assert secret._read() == stored.encode()
    assert ("as on Windows" in capsys.readouterr().err) == ("\r" in stored)


@pytest.mark.parametrize(
    ("size", "is_stored"), [(0, False), (1 << 20, True), ((1 << 20) + 1, False)]
)
def test_a_secret_has_at_most_a_mebibyte(size, is_stored, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"x" * size)))
    if is_stored:
        assert len(secret._read()) == size
    else:
        with pytest.raises(StackError, match="empty, or longer than a mebibyte"):
            secret._read()


@pytest.mark.parametrize(
    ("words", "ours"),
    [
        ("incorrect passphrase", "it was made with another passphrase: --passphrase FILE"),
        (
            "file is passphrase-encrypted but identities were specified with -i/--identity or -j",
            "it is encrypted with a passphrase and not for a key",
        ),
        (
            "no identity matched any of the recipients",
            "it is encrypted for a key that was not given: --key",
        ),
        (
            'reading "/run/secrets/backup_keys": failed to read "/run/secrets/backup_keys": error'
            " at line 1: unknown identity type",
            "the file that --key names has no private key of age",
        ),
        ("failed to decrypt and authenticate payload chunk", "it is damaged or cut off: get"),
        (
            "failed to read header: failed to parse header: failed to read line: EOF",
            "it is damaged or cut off: get",
        ),
        (
            'failed to parse recipient file "/run/secrets/backup_keys": "/run/secrets/backup_keys":'
            " malformed recipient at line 3",
            "a line of the file that BACKUP_KEYS names is not a public key",
        ),
        ("something new", "age failed"),
    ],
)
def test_an_encrypted_backup_that_cannot_be_read_says_why_in_words_of_ours(words, ours):
    said = f"age: error: {words}\nage: report unexpected errors\nit is empty\n"
    line = piped.last_line(said.encode())
    assert line.startswith(ours)
    assert line.endswith(f"(age: {words})")
    assert piped.last_line(b"a\nit is empty\n") == "it is empty"


def test_no_answer_to_a_question_is_no(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert not ask("Delete?")


@pytest.mark.parametrize(
    ("version", "problems"),
    [("1.13.14", []), ("1.13.2", []), ("1.12.4", ["code location shop has Dagster 1.12.4"])],
)
def test_a_code_location_with_another_dagster_is_named_because_its_runs_could_not_start(
    version, problems
):
    packages = [{"name": "dagster", "version": version}, {"name": "dagster-aws", "version": "0.1"}]
    entry = {"name": "shop", "locationOrLoadError": {
        "__typename": "RepositoryLocation", "dagsterLibraryVersions": packages}}  # fmt: skip
    answer = {"version": "1.13.14", "workspaceOrError": {"locationEntries": [entry]}}
    found = health.location_errors(Mock(**{"graphql.return_value": answer}))
    assert [line.partition(",")[0] for line in found] == problems
