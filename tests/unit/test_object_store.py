"""What the file of STORE_CONFIG may say, and what of the process's variables matters: nothing."""

import os
from types import SimpleNamespace

import pytest
from dagster._core.storage.fs_io_manager import PickledObjectFilesystemIOManager
from upath import UPath

from control_plane import move_to_store
from control_plane.code_server import kept_in_store, object_store
from control_plane.code_server.object_store import BadStore, ObjectStore, read_settings

GOOD = """[default]
bucket = s3://numbers/night/
aws_access_key_id = id
aws_secret_access_key = a%secret
region = eu-central-1
endpoint_url = https://store.example.com
"""


def test_a_file_in_the_format_of_aws_names_bucket_folder_and_account():
    found = read_settings(GOOD)
    assert (found.bucket, found.folder) == ("numbers", "night")
    assert (found.key_id, found.secret, found.region) == ("id", "a%secret", "eu-central-1")
    assert found.endpoint == "https://store.example.com"
    assert "a%secret" not in repr(found)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("bucket = x", "STORE_CONFIG cannot be read"),
        ("[default]\nbucket", "STORE_CONFIG cannot be read"),
        (b"\xff".decode("latin-1"), "STORE_CONFIG cannot be read"),
        ("", "no section [default]"),
        (GOOD.replace("[default]", "[profile x]"), "no section [default]"),
        (GOOD.replace("bucket =", "buckt ="), "has buckt, which nothing reads"),
        (GOOD.replace("= id", "="), "lacks aws_access_key_id"),
        (GOOD.replace("s3://numbers/night/", "/"), "has bucket=/: use NAME"),
        ("[default]\naws_secret_access_key SEKRIT\n", "line 2 is no"),
        ("aws_secret_access_key SEKRIT\n", "line 1 is no"),
        (f"{GOOD}bucket = SEKRIT\n", "line 7 repeats a name"),
        (GOOD.replace("= id", "= 'SEKRIT'"), "a value for aws_access_key_id"),
        (GOOD.replace("a%secret", "SEKRIT é"), "a value for aws_secret_access_key"),
        (GOOD.replace("eu-central-1", "eu central"), "a value for region"),
        (GOOD.replace("/night/", "/night//x"), "use NAME or NAME/FOLDER"),
        (GOOD.replace("/night/", "/night/../x"), "use NAME or NAME/FOLDER"),
        (GOOD.replace("https://", ""), "must begin with https://"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_by_name(text, said):
    with pytest.raises(BadStore, match="STORE_CONFIG") as refused:
        read_settings(text)
    assert said in str(refused.value)
    assert "SEKRIT" not in str(refused.value)


def test_a_file_of_another_system_is_the_same():
    assert read_settings("\ufeff" + GOOD.replace("\n", "\r\n")) == read_settings(GOOD)


def test_outputs_have_the_names_that_they_have_in_the_volume(tmp_path):
    stored = kept_in_store.StoredOutputs.__new__(kept_in_store.StoredOutputs)
    in_volume = PickledObjectFilesystemIOManager(str(tmp_path))
    for partition in ("plain", "..", "/a/../b", "100%", "ü/ñ"):
        names = [one.make_safe_partition_path(UPath("a"), partition) for one in (stored, in_volume)]
        assert names[0] == names[1]


def test_the_account_and_the_address_are_those_of_the_file_whatever_variables_say(
    monkeypatch, tmp_path
):
    other = tmp_path / "config"
    other.write_text("[default]\nregion = elsewhere\nendpoint_url = http://elsewhere\n")
    for name, value in {
        "AWS_ACCESS_KEY_ID": "other", "AWS_SECRET_ACCESS_KEY": "other", "AWS_SESSION_TOKEN": "x",
        "AWS_PROFILE": "nobody", "AWS_REGION": "elsewhere", "AWS_CONFIG_FILE": str(other),
        "AWS_ENDPOINT_URL": "http://elsewhere", "AWS_ENDPOINT_URL_S3": "http://elsewhere",
        "AWS_CA_BUNDLE": "/no/such/file", "AWS_SHARED_CREDENTIALS_FILE": str(other),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    client = ObjectStore(read_settings(GOOD)).client
    url = client.generate_presigned_url("get_object", Params={"Bucket": "numbers", "Key": "k"})
    assert url.startswith("https://store.example.com/numbers/k?")
    assert "Credential=id" in url or "AWSAccessKeyId=id" in url
    assert "oken" not in url
    assert client.meta.region_name == "eu-central-1"
    of_aws = ObjectStore(read_settings(GOOD.replace("endpoint_url", "#"))).client
    assert of_aws.meta.endpoint_url == "https://s3.eu-central-1.amazonaws.com"


def test_files_of_runs_in_progress_links_and_values_being_written_stay(monkeypatch, tmp_path):
    store = FakeStore()
    volumes = {name: tmp_path / name for name in (object_store.OUTPUTS, object_store.LOGS)}
    monkeypatch.setattr(move_to_store, "VOLUMES", volumes)
    outputs, logs = volumes.values()
    for path in (
        outputs / "done/step/result", outputs / "going/step/result", outputs / ".new/half",
        outputs / "summed/two", logs / "done/compute_logs/a.err",
        logs / "done/compute_logs/a.complete", logs / "going/compute_logs/b.err",
    ):  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)
    (logs / "tick/yesterday.err").parent.mkdir()
    (logs / "tick/yesterday.err").write_text("old")
    os.utime(logs / "tick/yesterday.err", (0, 0))
    (logs / "tick/now.err").touch()
    (outputs / "refused").touch()
    (outputs / "link").symlink_to("/etc/hostname")
    (outputs / "folder").symlink_to("/etc")
    os.mkfifo(logs / "pipe")
    (logs / b"\xff.err".decode(errors="surrogateescape")).touch()
    store.objects["night/outputs/summed/two"] = "newer"
    moved = move_to_store.move(store, {"going": False, "done": True}.get)
    assert moved.files == 3
    assert moved.size == len("result") + len("a.err") + len("old")
    assert moved.going == 3
    assert {reason: len(names) for reason, names in moved.left.items()} == {
        move_to_store.NO_KEY: 1, move_to_store.NO_FILE: 2, "the store refuses: no": 1,
    }  # fmt: skip
    assert store.objects == {
        "night/outputs/summed/two": "newer",
        "night/outputs/done/step/result": "result",
        "night/compute-logs/done/compute_logs/a.err": "a.err",
        "night/compute-logs/tick/yesterday.err": "old",
    }
    stay = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if not p.is_dir()}
    assert stay == {
        "outputs/going/step/result", "outputs/.new/half", "outputs/link", "outputs/refused",
        "compute-logs/going/compute_logs/b.err", "compute-logs/pipe",
        "compute-logs/tick/now.err", "compute-logs/\udcff.err",
    }  # fmt: skip


class FakeStore(ObjectStore):
    """Objects in memory. All were written in the far future."""

    client = property(lambda self: self)
    exceptions = SimpleNamespace(ClientError=ValueError)

    def __init__(self):
        super().__init__(read_settings(GOOD))
        self.objects = {}

    def modified(self, key):
        return 1e12 if key in self.objects else None

    def upload_fileobj(self, source, bucket, key):
        assert bucket == "numbers"
        if key.endswith("refused"):
            raise ValueError("no")
        self.objects[key] = source.read().decode()
