"""With STORE=s3 a bucket has outputs and step logs. What volumes have is read until it moves."""

import os

import pytest

from support.cli import basic, docker
from support.edge_client import ask

pytestmark = pytest.mark.whole

DEFS = "code_location/src/code_location/defs"
# A step without an output, which needs the store for its log only.
PRINTS = """
import dagster as dg


@dg.op(out={})
def only_prints():
    print("kept anyway")


@dg.job
def prints():
    only_prints()
"""
# Of the project's own account, elsewhere.
OTHER_ACCOUNT = """AWS_ACCESS_KEY_ID=other
AWS_SECRET_ACCESS_KEY=other
AWS_PROFILE=nobody
AWS_ENDPOINT_URL=http://nowhere:1
AWS_CA_BUNDLE=/no/such/file
"""
CONFIG = """[default]
bucket = {bucket}
aws_access_key_id = key
aws_secret_access_key = secret{more}
endpoint_url = http://store:9000
"""
SERVER = "mkdir -p /data/kept && exec rclone serve s3 /data --addr :9000 --auth-key key,secret"


class Kept:
    """A stack, the server of its bucket, and a run from before it had one."""

    def __init__(self, stack, config):
        self.stack, self.config = stack, config
        self.server = f"{stack.name}-store"

    def write_config(self, bucket="kept/here", more=""):
        self.config.write_text(CONFIG.format(bucket=bucket, more=more))

    def start_server(self):
        docker(
            "run", "--detach", f"--name={self.server}", f"--network={self.stack.name}_runs",
            "--network-alias=store", "--user=0:0", f"{self.stack.name}-stores:current",
            "sh", "-c", f"{SERVER} --config /dev/null",
        )  # fmt: skip
        for network in ("outside", "store"):
            name = f"{self.stack.name}_{network}"
            if docker("network", "ls", "--quiet", f"--filter=name=^{name}$"):
                docker("network", "connect", "--alias=store", name, self.server)

    def objects(self, *parts):
        """The keys in the bucket, relative to the stack's folder in it."""
        found = docker("exec", self.server, "find", "/data/kept", "-type", "f").split()
        keys = {one.removeprefix("/data/kept/here/") for one in found}
        return {key for key in keys if key.startswith("/".join(parts))}

    def in_volumes(self):
        """The files that the volumes of outputs and step logs have."""
        where = ["/var/lib/dagster/storage", "/var/lib/dagster/compute-logs"]
        found = self.stack.compose("exec", "-T", "daemon", "find", *where, "-type", "f").stdout
        return set(found.split())

    def downloaded(self, run, user):
        """A stream of a run's only step, as the UI's button gets it."""
        (key,) = [
            e["fileKey"] for e in self.stack.events(run) if e["__typename"] == "LogsCapturedEvent"
        ]
        where = f"/logs/{run}/compute_logs/{key}/out"
        credentials = {"Authorization": basic(user, self.stack.password_of(user))}
        return ask(self.stack, "GET", where, credentials, sign_in=False).text


def up(stack):
    done = stack.verb("up")
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"


@pytest.fixture(scope="module")
def kept(stacks, tmp_path_factory):
    stack = stacks.make("store", extra_definitions=True, COMPOSE_PROFILES="viewer")
    (stack.root / DEFS / "prints.py").write_text(PRINTS)
    (stack.root / "code_location/.env").write_text(OTHER_ACCOUNT)
    up(stack)
    made = Kept(stack, tmp_path_factory.mktemp("store") / "store.ini")
    made.before = stack.run("process_numbers_asset")
    made.printed = stack.run("talk")
    stack.compose("--profile", "warehouse", "build", "s3")
    made.write_config()
    (stack.root / ".env").write_text(f"STORE=s3\nSTORE_CONFIG={made.config}\n")
    up(stack)
    made.start_server()
    yield made
    docker("rm", "--force", "--volumes", made.server)
    stacks.remove(stack)


def test_outputs_and_step_logs_go_to_the_bucket_whatever_account_the_code_has(kept):
    volumes = kept.in_volumes()
    run = kept.stack.run("process_numbers")
    talks = kept.stack.run("talk")
    forked = kept.stack.run("in_processes_of_their_own")
    assert kept.in_volumes() == volumes
    assert any(one.endswith("/result") for one in kept.objects("outputs", forked))
    assert any(one.endswith("/result") for one in kept.objects("outputs", run))
    assert {one.rpartition(".")[2] for one in kept.objects("compute-logs", talks)} == {"out", "err"}
    for run in (talks, kept.printed):
        out, err = kept.stack.captured(run)
        assert out == "said on stdout\n"
        assert "said on stderr" in err
    for user in ("dagster", "viewer"):
        assert kept.downloaded(talks, user) == "said on stdout\n"


def test_what_volumes_have_is_read_and_moves_with_one_command(kept):
    # It loads what a run before has stored.
    kept.stack.run("process_numbers_asset", assets=["summed_two_sums"])
    before = kept.stack.captured(kept.printed)
    assert kept.in_volumes()
    done = kept.stack.verb("move-to-store")
    assert done.returncode == 0, done.stderr
    assert "moved" in done.stdout
    assert kept.in_volumes() == set()
    assert kept.stack.captured(kept.printed) == before
    assert f"compute-logs/{kept.printed}" in str(kept.objects("compute-logs"))
    kept.stack.run("process_numbers_asset", assets=["summed_two_sums"])
    # Again: nothing is left, and what has been stored since stays.
    stored = kept.objects()
    done = kept.stack.verb("move-to-store")
    assert "moved 0 files" in done.stdout
    assert kept.objects() == stored


def test_a_step_does_not_fail_because_its_log_cannot_be_stored(kept):
    docker("rm", "--force", "--volumes", kept.server)
    try:
        run = kept.stack.run("prints", seconds=240)
        assert "kept anyway" in kept.stack.captured(run)[0]
        assert "stays in the volume compute-logs" in kept.stack.said_of(run)
        # Of a run whose log was there before.
        assert "cannot be read now" in kept.stack.captured(kept.printed)[0]
    finally:
        kept.start_server()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"more": "-and-more"}, "cannot be written to: "),
        ({"bucket": "no-such-bucket"}, "the bucket no-such-bucket cannot be written to: "),
    ],
)
def test_doctor_says_what_is_wrong_with_the_bucket_or_its_credentials(kept, wrong, said):
    assert kept.stack.findings() == []
    kept.write_config(**wrong)
    try:
        up(kept.stack)
        (finding,) = kept.stack.findings()
        assert finding["part"] == "object store"
        assert said in finding["what"]
    finally:
        kept.write_config()
        up(kept.stack)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"STORE_CONFIG": os.devnull}, "STORE=s3 needs STORE_CONFIG"),
        ({"STORE": "gcs"}, "STORE='gcs' cannot be used: use s3"),
        ({"STORE_CONFIG": "/no/such/file"}, "STORE_CONFIG=/no/such/file: there is no such file"),
    ],
)
def test_settings_that_name_no_store_are_refused_before_anything_is_built(kept, settings, said):
    done = kept.stack.verb("up", **settings)
    assert done.returncode == 1
    assert said in done.stderr
    assert kept.stack.is_healthy()


def test_a_file_that_says_something_else_is_refused_by_make_up_and_by_compose(kept):
    kept.config.write_text("[default]\nbuckt = here\n")
    try:
        done = kept.stack.verb("up")
        assert done.returncode == 1
        assert "STORE_CONFIG has buckt, which nothing reads" in done.stderr
        assert kept.stack.is_healthy()
        done = kept.stack.compose("up", "--detach", "--wait", "--no-build", check=False)
        assert done.returncode != 0
        assert "has buckt, which nothing reads" in kept.stack.compose("logs", "migrate").stdout
    finally:
        kept.write_config()
        up(kept.stack)


def test_another_file_is_used_from_the_next_start_on(kept, tmp_path):
    right, other = kept.config, tmp_path / "other.ini"
    kept.config = other
    kept.write_config(bucket="kept/there")
    try:
        done = kept.stack.verb("up", STORE_CONFIG=str(other))
        assert done.returncode == 0, done.stderr
        run = kept.stack.run("process_numbers")
        found = docker("exec", kept.server, "find", "/data/kept/there/outputs", "-type", "f")
        assert run in found
        assert not kept.objects("outputs", run)
    finally:
        kept.config = right
        up(kept.stack)


def test_a_store_that_hangs_is_named_by_doctor_and_holds_up_no_page(kept):
    run = kept.stack.run("talk")
    assert "said" in kept.stack.captured(run)[0]
    docker("pause", kept.server)
    try:
        assert "cannot be read now" in kept.stack.captured(run)[0]
        (finding,) = kept.stack.findings()
        assert "Read timeout" in finding["what"]
    finally:
        docker("unpause", kept.server)
    assert "said" in kept.stack.captured(run)[0]


def test_images_that_were_built_for_another_store_do_not_start(kept):
    env = kept.stack.root / ".env"
    saved = env.read_text()
    env.write_text("")
    try:
        done = kept.stack.compose("up", "--detach", "--wait", "--no-build", check=False)
        assert done.returncode != 0
        said = kept.stack.compose("logs", "migrate").stdout
        assert "STORE in .env is not what the images were built with" in said
    finally:
        env.write_text(saved)
        up(kept.stack)
