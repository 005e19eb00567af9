"""A backup is complete or refused, and what is restored from it is what there was."""

import gzip
import io
import json
import os
import re
import shutil
import signal
import subprocess
import tarfile
import time

import pytest

from support.cli import COMMAND, docker
from support.harness import wait_until
from support.killed import TIMES, kill, moments

PASSPHRASE = "correct horse battery staple\n"
SCHEDULE = {
    "repositoryLocationName": "code_location",
    "repositoryName": "__repository__",
    "scheduleName": "process_numbers_every_minute",
}
START = """mutation Start($schedule: ScheduleSelector!) {
    startSchedule(scheduleSelector: $schedule) { __typename } }"""
STATUS = """query Status($schedule: ScheduleSelector!) {
    scheduleOrError(scheduleSelector: $schedule) {
      ... on Schedule { scheduleState { status } } } }"""


@pytest.fixture(scope="module")
def passphrase(tmp_path_factory):
    """A file with a passphrase."""
    file = tmp_path_factory.mktemp("passphrase") / "passphrase"
    file.write_text(PASSPHRASE)
    return file


@pytest.fixture(scope="module")
def original(stacks):
    """A stack with a history, a schedule that is on, and files in its volumes."""
    made = stacks.make("backup")
    (made.root / ".env").write_text("KEEP_FAILED_CONTAINERS=3d\n")
    done = made.verb("up")
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    made.asset_run = made.run("process_numbers_asset")
    made.graphql(START, schedule=SCHEDULE)
    where = "code_location:/var/lib/dagster/data/kept.txt"
    subprocess.run(
        made.command("cp", "/etc/hostname", where), cwd=made.root, env=made.environment, check=True
    )
    yield made
    stacks.remove(made)


@pytest.fixture(scope="module")
def backup(original, passphrase):
    """A backup, encrypted, that was made while runs went on."""
    runs = [original.launch("process_numbers") for _ in range(4)]
    original.in_progress = runs
    return write(original, BACKUP_PASSPHRASE=str(passphrase))


@pytest.fixture(scope="module")
def plain(original, backup, passphrase, tmp_path_factory):
    """The same backup without encryption: what `./stack backup` would have written."""
    folder = tmp_path_factory.mktemp("plain")
    return decrypted(original, backup, passphrase, folder / "plain.backup")


def decrypted(stack, file, passphrase, target):
    """Writes what age makes of a backup; returns the target."""
    where = "/run/secrets/backup_passphrase"
    script = f"python3 /opt/backup/with_passphrase.py {where} age --decrypt"
    with file.open("rb") as source, target.open("wb") as out:
        options = "--rm", "-i", f"--volume={passphrase}:{where}:ro", "--entrypoint=bash"
        command = ["run", *options, f"{stack.name}-backup:current", "-c", script]
        subprocess.run(["docker", *command], stdin=source, stdout=out, check=True)
    return target


def write(stack, **settings):
    """Makes a backup; returns its file."""
    done = stack.verb("backup", **settings)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    return stack.root / re.search(r"^(/\S+): [\d.]+ MiB$", done.stdout, re.MULTILINE)[1]


def test_a_restored_stack_of_another_name_has_all_that_the_backup_has(
    original, backup, passphrase, new_stack
):
    copy = new_stack("restored")
    done = copy.verb("restore", str(backup), "--passphrase", str(passphrase))
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    assert "every table and file compared" in done.stdout

    assert copy.is_healthy()
    assert copy.password == original.password
    assert copy.events(original.asset_run) == original.events(original.asset_run)
    assert copy.captured(original.asset_run) == original.captured(original.asset_run)
    assert "KEEP_FAILED_CONTAINERS=3d" in (copy.root / ".env").read_text()
    state = copy.graphql(STATUS, schedule=SCHEDULE)["scheduleOrError"]["scheduleState"]
    assert state["status"] == "RUNNING"
    kept = copy.compose("exec", "-T", "code_location", "cat", "/var/lib/dagster/data/kept.txt")
    assert kept.stdout
    # What a run of the original stored is what a run of the copy loads.
    copy.run("process_numbers_asset", assets=["summed_two_sums"])
    # Runs that were in progress or in the queue end here as well.
    for run in original.in_progress:
        assert copy.finished(run, 240) in ("SUCCESS", "FAILURE")


@pytest.mark.whole
def test_what_is_there_is_replaced_if_that_is_asked_for_but_no_secret_that_the_file_has_not(
    original, plain, new_stack
):
    copy = new_stack("replaced")
    assert copy.verb("up").returncode == 0
    later = copy.run("process_numbers")
    keep_secret(copy, b"of the copy")
    done = copy.verb("restore", str(plain), "--replace")
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    file = "/run/dagster-settings/secrets/kept"
    assert copy.compose("exec", "--no-TTY", "code_location", "cat", file).stdout == "of the copy"
    for cached in ("client", "password"):  # of before
        copy.__dict__.pop(cached, None)
    assert copy.events(original.asset_run) == original.events(original.asset_run)
    assert not copy.sql(f"SELECT FROM runs WHERE run_id = '{later}'")


@pytest.mark.whole
def test_a_backup_is_verified_row_by_row_and_nothing_is_left_of_the_copy(
    original, backup, passphrase
):
    done = original.verb("backup-verify", str(backup), "--passphrase", str(passphrase))
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    assert re.search(
        r"is whole: \d+ rows of \d+ tables and \d+ files are as they were", done.stdout
    )
    for kind in ("volume", "network"):
        assert f"{original.name}-verify" not in docker(kind, "ls")
    assert f"{original.name}-verify" not in docker("ps", "--all")
    assert original.verb("backup-verify", "/etc/hostname").returncode == 1
    assert f"{original.name}-verify" not in docker("image", "ls")


def changed(file, out, change):
    """A copy of a backup, with a member of its archive changed and all checksums as they were."""
    with tarfile.open(file, "r:gz") as old, tarfile.open(out, "w:gz") as new:
        for member in old:
            data = old.extractfile(member).read() if member.isreg() else None
            if data is not None:
                data = change(member.name, data)
                if data is None:
                    continue
                member.size = len(data)
            new.addfile(member, io.BytesIO(data) if data is not None else None)
    return out


def of_version(name, **versions):
    """A change of the manifest."""

    def change(member, data):
        return json.dumps({**json.loads(data), **versions}).encode() if member == name else data

    return change


# That would be written elsewhere, or would be more than a file.
MEMBERS = (
    ("volumes/inbox/../../../tmp/evil", tarfile.REGTYPE),
    ("/srv/evil", tarfile.REGTYPE),
    ("volumes/inbox/disk", tarfile.BLKTYPE),
    ("volumes/inbox/shadow", tarfile.LNKTYPE, "/etc/shadow"),
    ("volumes/inbox/up", tarfile.LNKTYPE, "volumes/inbox/../../etc/shadow"),
    ("manifest.json", tarfile.REGTYPE),
)


def with_member(file, out, name, kind, target=""):
    """A copy of a backup with one member more, which no backup has."""
    with tarfile.open(file, "r:gz") as old, tarfile.open(out, "w:gz") as new:
        for member in old:
            new.addfile(member, old.extractfile(member) if member.isreg() else None)
        added = tarfile.TarInfo(name)
        added.type, added.linkname = kind, target
        new.addfile(added)
    return out


def damaged(folder, encrypted, plain):
    """Files that are no backups of this stack any more: what `restore` should say of each."""

    def made(name, data):
        (folder / name).write_bytes(data)
        return folder / name

    whole, clear = encrypted.read_bytes(), plain.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    flipped_clear = bytearray(clear)
    flipped_clear[len(clear) // 2] ^= 1
    logs = re.compile(r"volumes/.*/compute_logs/.*out")

    def of(what, value):
        """The backup with another version in its manifest."""
        return changed(plain, folder / what, of_version("manifest.json", **{what: value}))

    with tarfile.open(folder / "other.tgz", "w:gz") as other:
        other.add("/etc/hostname")
    return {
        made("empty", b""): "empty",
        made("cut", whole[: len(whole) // 2]): "it is damaged or cut off",
        made("flipped", bytes(flipped)): "it is damaged or cut off",
        made("cut_clear", clear[: len(clear) // 2]): "cut off",
        made("flipped_clear", bytes(flipped_clear)): "damaged|cut off",
        made("longer", clear + b"something\n"): "damaged",
        made("twice", clear * 2): "damaged",
        made("text", b"This is not a backup.\n" * 100): "not a backup",
        made("gzip", gzip.compress(b"not a tar archive" * 1000)): "not a backup",
        folder / "other.tgz": "not a backup",
        changed(plain, folder / "log", lambda n, d: d + b"x" * bool(logs.fullmatch(n))): "damaged",
        changed(plain, folder / "gone", lambda n, d: None if logs.fullmatch(n) else d): "damaged",
        changed(plain, folder / "no", lambda n, d: None if n == "database.dump" else d): "no data",
        changed(plain, folder / "sql", lambda n, d: b"x" if n == "database.dump" else d): "no data",
        changed(plain, folder / "rows", lambda n, d: b"{}" if n == "tables.json" else d): "no data",
        **{
            with_member(plain, folder / f"member{number}", *member): "not a backup of a stack: '"
            for number, member in enumerate(MEMBERS)
        },
        of("format", [99]): "format 99",
        of("Dagster", [99, 1, 0]): "Dagster 99.1.0",
        of("Postgres", [99]): "Postgres 99",
    }  # fmt: skip


@pytest.mark.whole
def test_a_damaged_foreign_or_newer_backup_is_refused_and_nothing_is_touched(
    original, backup, plain, passphrase, new_stack, tmp_path
):
    empty = new_stack("refused")
    for file, reason in damaged(tmp_path, backup, plain).items():
        done = empty.verb("restore", str(file), "--passphrase", str(passphrase))
        assert done.returncode == 1, f"{file.name}: {done.stdout}"
        last = done.stderr.strip().splitlines()[-1]
        assert re.search(reason, last), f"{file.name}: {done.stderr}"
    wrong = tmp_path / "wrong"
    wrong.write_text("another passphrase\n")
    another = "made with another passphrase: --passphrase FILE"
    for flags, reason in (((), "is encrypted"), (("--passphrase", str(wrong)), another)):
        done = empty.verb("restore", str(backup), *flags)
        assert done.returncode == 1
        assert reason in done.stderr.strip().splitlines()[-1], done.stderr
    assert not docker("volume", "ls", "--quiet", f"--filter=name={empty.name}")
    assert not empty.services()
    assert not (empty.root / ".env").exists()
    # A stack with data is not touched either.
    done = original.verb("restore", str(backup), "--passphrase", str(passphrase))
    assert done.returncode == 1
    assert "has data" in done.stderr
    assert original.is_healthy()


@TIMES
def test_a_backup_that_is_killed_leaves_no_file_and_the_next_one_is_complete(
    original, passphrase, times
):
    folder = original.root / "backups"
    # One that is not complete has a dot before its name.
    there = set(folder.glob("[!.]*"))
    settings = {"BACKUP_PASSPHRASE": str(passphrase)}
    for moment in moments(times, 5):
        kill(original, moment, "backup", **settings)
        # One that was complete by then is whole.
        for done in set(folder.glob("[!.]*")) - there:
            words = "backup-verify", str(done), "--passphrase", str(passphrase)
            assert original.verb(*words).returncode == 0
            there.add(done)
    file = write(original, **settings)
    assert set(folder.iterdir()) == {*there, file}
    left = f"--filter=label=dagster/backup_of={original.name}"
    assert not docker("ps", "--all", "--quiet", left)


@pytest.mark.whole
def test_a_restore_that_is_killed_as_it_begins_to_fill_is_refused_by_compose_alone_as_well(
    original, plain, new_stack
):
    copy = new_stack("empty")
    for moment in (0, 1):  # for the second one it deletes what there is first
        verb = subprocess.Popen(
            [*COMMAND, "restore", str(plain), "--no-start"], cwd=copy.root, text=True,
            env=copy.environment, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        assert "filling the stack\n" in iter(verb.stdout.readline, "")
        time.sleep(moment)
        os.killpg(verb.pid, signal.SIGKILL)
        verb.wait()
        up = copy.command("up", "--detach")
        assert subprocess.run(up, cwd=copy.root, env=copy.environment, check=False).returncode == 1
        assert "daemon" not in docker("ps", f"--filter=name={copy.name}-")
        said = copy.compose("logs", "prepare").stdout
        assert "a restore goes on or was interrupted: ./stack restore FILE again" in said
    done = copy.verb("restore", str(plain), "--no-start")
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    copy.compose("up", "--detach", "--wait", "edge")
    assert copy.status_of(original.asset_run) == "SUCCESS"


@TIMES
def test_a_restore_that_is_killed_is_named_and_done_again_and_can_be_looked_at(
    original, plain, new_stack, times
):
    copy = new_stack("interrupted")
    for moment in moments(times, 15):
        kill(copy, moment, "restore", str(plain), "--no-start")
        volumes = docker("volume", "ls", "--quiet").split()
        if f"{copy.name}_restoring" in volumes:
            for verb in ("status", "up", "backup"):
                done = copy.verb(verb)
                assert done.returncode == 1
                assert "a restore" in done.stderr
                assert "was interrupted" in done.stderr
        elif any(volume.startswith(f"{copy.name}_") for volume in volumes):
            # It was complete by then.
            assert copy.verb("destroy", "--force").returncode == 0
    done = copy.verb("restore", str(plain), "--no-start")
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    assert "every table and file compared" in done.stdout
    assert f"{copy.name}_restoring" not in docker("volume", "ls", "--quiet").split()
    # Without the daemon nothing ticks, and no run starts.
    copy.compose("up", "--detach", "--wait", "edge")
    assert copy.status_of(original.asset_run) == "SUCCESS"
    assert "daemon" not in copy.services()


@pytest.mark.whole
def test_older_backups_go_when_there_are_enough(original, passphrase, tmp_path):
    settings = {"BACKUP_PASSPHRASE": str(passphrase), "BACKUP_FOLDER": str(tmp_path)}
    write(original, **settings)
    others = tmp_path / f"{original.name}-notes.backup"
    others.write_text("not one of ours")
    done = original.verb("backup", "--keep", "1", **settings)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    wait_until(lambda: len(list(tmp_path.iterdir())) == 2, "one backup and the other file", 1)
    assert others.exists()


@pytest.mark.release
def test_a_backup_is_made_each_day_at_the_time_that_is_set(original, passphrase, tmp_path):
    settings = {
        "COMPOSE_PROFILES": "backup", "BACKUP_KEEP": "1", "BACKUP_FOLDER": str(tmp_path),
        "BACKUP_PASSPHRASE": str(passphrase),
    }  # fmt: skip
    done = original.verb("up", **settings)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    due = time.strftime("%H:%M", time.gmtime(time.time() + 70))
    again = original.command("up", "--detach", "--wait", "--no-deps", "backup")
    environment = {**original.environment, **settings, "BACKUP_AT": due}
    subprocess.run(again, cwd=original.root, env=environment, check=True)
    try:
        (file,) = wait_until(lambda: list(tmp_path.glob("*.backup.age")), "a backup", 150)
        done = original.verb("backup-verify", str(file), "--passphrase", str(passphrase))
        assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    finally:
        done = original.verb("up")
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    assert "backup" not in original.services()


@pytest.mark.release
def test_encrypted_backups_are_copied_to_an_object_store_which_has_the_newest(
    original, backup, plain, passphrase, tmp_path
):
    folder, fetched = tmp_path / "backups", tmp_path / "fetched"
    folder.mkdir()
    fetched.mkdir()
    shutil.copy(plain, folder / f"{original.name}-2026-01-01T00-00-00Z.backup")
    names = [f"{original.name}-2026-01-0{day}T00-00-00Z.backup.age" for day in (1, 2, 3)]
    for name in names[:2]:
        shutil.copy(backup, folder / name)
    config = tmp_path / "rclone.conf"
    config.write_text(
        "[store]\ntype = s3\nprovider = Other\nendpoint = http://store:9000\n"
        "access_key_id = key\nsecret_access_key = secret\n"
    )
    settings = {
        "COMPOSE_PROFILES": "backup-store", "BACKUP_FOLDER": str(folder),
        "BACKUP_STORE": "store:backups/here", "BACKUP_STORE_CONFIG": str(config),
        "BACKUP_STORE_KEEP": "2",
    }  # fmt: skip
    # rclone as a server of S3 is newer than Debian's.
    original.compose("--profile", "warehouse", "build", "s3")
    store, image = f"{original.name}-store", f"{original.name}-stores:current"

    def there():
        return sorted(docker("exec", store, "sh", "-c", "ls /data/backups/here").split())

    def said():
        return docker("logs", original.container_of("backup_store"))

    try:
        # There is no store yet: it is unhealthy, and says so.
        done = original.verb("up", **settings)
        assert done.returncode == 1
        assert "backup_store" in done.stderr
        docker(
            "run", "--detach", f"--name={store}", f"--network={original.name}_outside",
            "--network-alias=store", "--user=0:0", image, "sh", "-c",
            "mkdir -p /data/backups && exec rclone serve s3 /data --addr :9000"
            " --auth-key key,secret --config /dev/null",
        )  # fmt: skip
        wait_until(lambda: "the newest 2 are in" in said(), "the copies", 150)
        assert there() == names[:2]
        shutil.copy(backup, folder / names[2])
        wait_until(lambda: f"deleted {names[0]}" in said(), "the oldest to go", 150)
        assert there() == names[1:]
        done = original.verb("up", **settings)
        assert done.returncode == 0, f"{done.stdout}{done.stderr}"
        # As on a new machine.
        rclone = "--entrypoint=rclone", f"--volume={fetched}:/here"
        copy = "backup_store", "copy", f"store:backups/here/{names[2]}", "/here"
        get = original.command("run", "--rm", "--no-deps", *rclone, *copy)
        environment = {**original.environment, **settings}
        subprocess.run(get, cwd=original.root, env=environment, check=True)
        assert (fetched / names[2]).read_bytes() == backup.read_bytes()
    finally:
        docker("rm", "--force", "--volumes", store)
        done = original.verb("up")
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"


@pytest.mark.whole
def test_a_backup_for_a_key_can_be_read_with_the_private_key_only(original, backup, tmp_path):
    image = f"{original.name}-backup:current"
    private, public = tmp_path / "private", tmp_path / "public"
    private.write_text(docker("run", "--rm", "--entrypoint=age-keygen", image))
    public.write_text(re.search(r"age1\w+", private.read_text())[0])
    file = write(original, BACKUP_KEYS=str(public))
    other = tmp_path / "other"
    other.write_text(docker("run", "--rm", "--entrypoint=age-keygen", image))
    for key, said in ((public, "no private key"), (other, "for a key that was not given")):
        done = original.verb("backup-verify", str(file), "--key", str(key))
        assert done.returncode == 1, f"{done.stdout}{done.stderr}"
        assert said in done.stderr.strip().splitlines()[-1]
    done = original.verb("backup-verify", str(file), "--key", str(private))
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    refused = original.verb("backup", BACKUP_KEYS=str(private))
    assert "is not a public key" in refused.stderr.strip().splitlines()[-1]
    assert original.password.encode() not in file.read_bytes()


@pytest.mark.whole
def test_secrets_are_in_an_encrypted_backup_only(original, plain, passphrase, tmp_path):
    keep_secret(original, b"a secret of the backups test")
    clear = write(original)
    encrypted = write(original, BACKUP_PASSPHRASE=str(passphrase))
    name = "volumes/code_location-settings/secrets/kept"
    with tarfile.open(clear) as files:
        assert name not in files.getnames()
    with tarfile.open(decrypted(original, encrypted, passphrase, tmp_path / "opened")) as files:
        assert files.extractfile(name).read() == b"a secret of the backups test"


def keep_secret(stack, value):
    """`./stack secret kept`."""
    done = subprocess.run(
        [*COMMAND, "secret", "kept"], cwd=stack.root, env=stack.environment, input=value,
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def commit(stack, message):
    """Commits all files of a checkout; returns the revision."""
    who = "-c", "user.name=test", "-c", "user.email=test@example.com"
    git(stack, "add", "--all")
    git(stack, *who, "commit", "--quiet", "--message", message)
    return git(stack, "rev-parse", "HEAD")


@pytest.fixture
def revisions(original):
    """Three commits of the checkout: what runs, one more asset, and what does not start."""
    if not (original.root / ".git").exists():
        subprocess.run(["git", "init", "--quiet"], cwd=original.root, check=True)
        made = [commit(original, "before")]
        added = original.root / "code_location/src/code_location/defs/added.py"
        added.write_text("import dagster as dg\n\n\n@dg.asset\ndef added():\n    return 1\n")
        made.append(commit(original, "good"))
        # The database is upgraded, and then a service does not start.
        compose = original.root / "docker-compose.yml"
        text = compose.read_text()
        compose.write_text(
            text.replace("control_plane.webserver, --host", "control_plane.nothing, --host")
        )
        original.revisions = [*made, commit(original, "bad")]
    git(original, "checkout", "--quiet", original.revisions[0])
    return original.revisions


def git(stack, *words):
    """Runs git in a stack's checkout; returns what it said."""
    done = subprocess.run(
        ["git", *words], cwd=stack.root, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.mark.whole
def test_an_upgrade_makes_a_backup_first_and_one_that_fails_can_be_taken_back(
    original, passphrase, revisions
):
    _, good, bad = revisions
    settings = {"BACKUP_PASSPHRASE": str(passphrase)}

    done = original.verb("upgrade", "--revision", good, **settings)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    run = original.run("__ASSET_JOB", assets=["added"])

    done = original.verb("upgrade", "--revision", bad, **settings)
    assert done.returncode == 1
    back = re.search(
        r"To go back: (git checkout \w+ && \./stack restore \S+ --replace)", done.stderr
    )
    environment = {**original.environment, **settings}
    subprocess.run(["bash", "-c", back[1]], cwd=original.root, env=environment, check=True)
    assert wait_until(original.is_healthy, "the stack to be healthy")
    assert original.status_of(run) == "SUCCESS"
    original.run("process_numbers_asset", assets=["summed_two_sums"])

    (original.root / "dagster.yaml").write_text("# changed\n")
    done = original.verb("upgrade", "--revision", good, **settings)
    assert done.returncode == 1
    assert "without a commit" in done.stderr
    git(original, "checkout", "--quiet", "dagster.yaml")


@pytest.mark.whole
def test_an_upgrade_that_a_power_failure_ends_is_named_and_finished_by_the_next_one(
    original, passphrase, revisions
):
    before, good, _ = revisions
    assert original.verb("up").returncode == 0
    mark = original.root / ".dagster" / f"{original.name}.upgrading"
    words = "upgrade", "--revision", good
    kill(original, mark.exists, *words, BACKUP_PASSPHRASE=str(passphrase))
    original.compose("stop")
    back = rf"go back: git checkout {before[:12]} && \./stack restore \S+ --replace"
    named = rf"upgrade: one goes on, or was interrupted: .*{back}"
    assert re.search(named, original.verb("status").stderr)
    (finding, *_) = original.findings()
    assert finding["part"] == "upgrade"
    assert re.search(back, finding["remedy"])
    # Without a backup: there is nothing to make one of.
    done = original.verb(*words)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    assert re.search(back, done.stdout)
    assert original.findings() == []
    assert original.verb("status").returncode == 0
    original.run("__ASSET_JOB", assets=["added"])


@TIMES
def test_an_upgrade_that_is_killed_is_finished_by_the_next_one(
    original, passphrase, revisions, times
):
    before, good, _ = revisions
    settings = {"BACKUP_PASSPHRASE": str(passphrase)}
    for moment in moments(times, 25):
        git(original, "checkout", "--quiet", before)
        assert original.verb("up").returncode == 0
        kill(original, moment, "upgrade", "--revision", good, **settings)
        done = original.verb("upgrade", "--revision", good, **settings)
        assert done.returncode == 0, f"{done.stdout}{done.stderr}"
        assert git(original, "rev-parse", "HEAD") == good
        assert original.status_of(original.asset_run) == "SUCCESS"
        original.run("__ASSET_JOB", assets=["added"])
