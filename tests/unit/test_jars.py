"""How an image build gets a jar (fetch_jars.py), and from where (maven_repository.py)."""

import hashlib
import http.server
import os
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import fetch_jars
import maven_repository
import pytest

ROOT = Path(__file__).resolve().parents[2]
JAR = b"not really a jar"
SHA_256 = hashlib.sha256(JAR).hexdigest()
COORDINATES = "org.example.things:thing_2.12:1.0"
PATH = "org/example/things/thing_2.12/1.0/thing_2.12-1.0.jar"
SUPER_POM = """<project><repositories><repository>
    <id>central</id><url>https://built-in.example.com/maven2</url>
</repository></repositories></project>"""


@pytest.fixture
def repository(tmp_path):
    """A Maven repository with one jar; its address."""
    jar = tmp_path / "repository" / PATH
    jar.parent.mkdir(parents=True)
    jar.write_bytes(JAR)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=tmp_path / "repository")

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def build(tmp_path):
    """What a build does, with a repository; the finished process and the jars."""

    def run(repository, checksum=SHA_256, coordinates=COORDINATES):
        lock, folder = tmp_path / "jars.lock", tmp_path / "jars"
        lock.write_text(f"# a comment\n{coordinates} {checksum}\n")
        done = subprocess.run(
            [sys.executable, ROOT / "locations/warehouse/fetch_jars.py", lock, folder],
            env={**os.environ, "MAVEN_REPOSITORY": repository, "no_proxy": "127.0.0.1"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done, [jar.name for jar in folder.iterdir()]

    return run


def test_a_build_fetches_the_locked_jar(repository, build):
    done, jars = build(f"{repository}/")
    assert done.returncode == 0
    assert jars == ["thing_2.12-1.0.jar"]


def test_another_checksum_ends_the_build_in_one_line(repository, build):
    done, jars = build(repository, checksum="0" * 64)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert SHA_256 in line
    assert jars == []


@pytest.mark.parametrize("address", ["", "http://127.0.0.1:1", "http://nowhere.invalid", "/a/path"])
def test_a_build_without_a_repository_in_reach_goes_on_and_says_so(build, address):
    done, jars = build(address)
    assert done.returncode == 0
    (line,) = done.stdout.splitlines()
    assert f"going on without {COORDINATES}" in line
    assert address in line
    assert jars == []


def test_a_repository_that_lacks_the_jar_is_named(repository, build):
    done, jars = build(repository, coordinates="org.example:other:1.0")
    assert done.returncode == 0
    assert f"{repository}: HTTP Error 404" in done.stdout
    assert jars == []


def test_the_lock_has_what_spark_needs():
    """The connector is made for one version of Scala: that of the locked Spark 3.5, 2.12."""
    lock = fetch_jars.wanted((ROOT / "locations/warehouse/jars.lock").read_text())
    packages = (ROOT / "locations/warehouse/requirements.txt").read_text()
    assert "pyspark==3.5." in packages
    (connector,) = (coordinates for coordinates, _ in lock if "bigquery" in coordinates)
    assert connector.split(":")[1].endswith("_2.12")
    assert all(len(checksum) == 64 for _, checksum in lock)
    assert "://" not in (ROOT / "locations/warehouse/jars.lock").read_text()


def settings(folder, *mirrors):
    """A settings.xml with these mirrors, each an address and what it stands for."""
    entries = "".join(
        f"<mirror><id>m</id><mirrorOf>{of}</mirrorOf><url>{url}</url></mirror>"
        for url, of in mirrors
    )
    unused = (
        "<!-- <mirror><mirrorOf>*</mirrorOf><url>https://comment.example.com</url></mirror> -->"
    )
    namespace = 'xmlns="http://maven.apache.org/SETTINGS/1.2.0"'
    folder.mkdir(parents=True)
    text = f"<settings {namespace}><mirrors>{unused}{entries}</mirrors></settings>"
    (folder / "settings.xml").write_text(text)


@pytest.fixture
def host(tmp_path, monkeypatch, capsys):
    """A host with Maven and no settings; what the script prints there."""
    (tmp_path / "maven/lib").mkdir(parents=True)
    with zipfile.ZipFile(tmp_path / "maven/lib/maven-model-builder-3.8.7.jar", "w") as jar:
        jar.writestr("org/apache/maven/model/pom-4.0.0.xml", SUPER_POM)
    monkeypatch.setenv("MAVEN_HOME", str(tmp_path / "maven"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def printed():
        maven_repository.main()
        return capsys.readouterr().out.strip()

    return printed


def test_the_repository_is_the_one_that_maven_has_built_in(host):
    assert host() == "https://built-in.example.com/maven2"


def test_a_mirror_in_the_settings_of_the_installation_comes_before_it(host, tmp_path):
    settings(tmp_path / "maven/conf", ("https://site.example.com", "central"))
    assert host() == "https://site.example.com"


def test_a_mirror_of_the_user_comes_before_that_of_the_installation(host, tmp_path):
    settings(tmp_path / "maven/conf", ("https://site.example.com", "central"))
    settings(tmp_path / "home/.m2", ("https://user.example.com", "external:*, !internal"))
    assert host() == "https://user.example.com"


def test_mirrors_of_other_repositories_are_passed_over(host, tmp_path):
    others = ("*,!central", "external:http:*", "jcenter")
    settings(tmp_path / "home/.m2", *(("https://other.example.com", of) for of in others))
    assert host() == "https://built-in.example.com/maven2"


def test_a_host_without_maven_has_no_repository(host, monkeypatch):
    monkeypatch.delenv("MAVEN_HOME")
    monkeypatch.delenv("M2_HOME", raising=False)
    monkeypatch.setenv("PATH", "")
    assert host() == ""
