"""Each code location is a project of `dg`, and the root is their workspace."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECTS = [
    "code_location",
    *(str(p.parent.relative_to(ROOT)) for p in ROOT.glob("locations/*/src")),
]
WORKSPACE = tomllib.loads((ROOT / "dg.toml").read_text())


@pytest.fixture(params=PROJECTS)
def project(request):
    return ROOT / request.param


def settings(project):
    return tomllib.loads((project / "pyproject.toml").read_text())


def test_there_are_two_projects():
    assert {"code_location", "locations/warehouse"} <= set(PROJECTS)


def test_a_project_has_the_layout_that_create_dagster_makes(project):
    described = settings(project)
    assert described["tool"]["dg"]["directory_type"] == "project"
    package = described["tool"]["dg"]["project"]["root_module"]
    assert described["project"]["name"] == package
    assert (project / "src" / package / "definitions.py").is_file()
    assert (project / "src" / package / "defs/__init__.py").is_file()
    assert described["build-system"]["build-backend"]
    assert not (project / "dg.toml").exists(), "dg would ignore [tool.dg] in pyproject.toml"


def test_a_project_declares_and_locks_its_own_dependencies(project):
    locked = (project / "requirements.txt").read_text()
    for dependency in settings(project)["project"]["dependencies"]:
        name = re.match(r"[\w-]+", dependency)[0]
        assert re.search(rf"^{name}==", locked, re.M), name
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    assert not {"code", "warehouse", "stores"} & set(groups)


def test_the_image_installs_the_lock_of_its_project(project):
    """The layer with the packages depends on the lock and the installer, not on your code."""
    if project.parent.name == "locations":
        dockerfile = (project / "Dockerfile").read_text()
        mounted = {"install.sh", "build.txt", "project.txt"}
        lock = str((project / "requirements.txt").relative_to(ROOT))
        assert f"source={lock},target=/requirements/project.txt" in dockerfile
    else:
        dockerfile = (ROOT / "Dockerfile.code").read_text()
        mounted = {"install.sh", "resolve.py", "build.txt", "control-plane.txt"}
        copied = re.search("for name in (.*); do", dockerfile)[1].split()
        asked = {"pyproject.toml", "requirements.txt", "setup.py", "setup.cfg"}
        assert set(copied) == asked | {"uv.lock", "packages.txt"}
    layer = dockerfile.partition("install.sh,target")[0].rpartition("RUN")[2]
    layer += dockerfile.partition(layer)[2].partition("sh /requirements/install.sh")[0]
    assert set(re.findall(r"target=/requirements/?(\S*)", layer)) == mounted
    assert "source=requirements," not in dockerfile


def test_the_root_is_a_workspace_that_names_every_project():
    """A project with large dependencies is there as a comment."""
    assert WORKSPACE["directory_type"] == "workspace"
    named = re.findall(r'^(?:# )?path = "(.*)"$', (ROOT / "dg.toml").read_text(), re.M)
    assert sorted(named) == sorted(PROJECTS)
    assert {"path": "code_location"} in WORKSPACE["workspace"]["projects"]


def test_dg_lists_the_definitions_of_a_project_from_the_root():
    environment = {**os.environ}
    environment.pop("DAGSTER_HOME", None)
    done = subprocess.run(
        [Path(sys.executable).with_name("dg"), "list", "defs", "--json",
         "--target-path", "code_location"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "process_numbers" in {job["name"] for job in json.loads(done.stdout)["jobs"]}
