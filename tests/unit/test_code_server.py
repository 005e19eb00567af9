"""What turns a project into a code location: finding its definitions, putting it in, serving it."""

import json
import os
import subprocess
import sys

import pytest

from control_plane.code_server import hand_over, put_in
from control_plane.code_server.project import NoDefinitions, definitions_module
from support import ROOT

DEFINITIONS = "import dagster as dg\n\n@dg.asset\ndef a(): ...\n\ndefs = dg.Definitions([a]{})\n"
DG = '[tool.dg.project]\nroot_module = "shop"\n'


def project(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("files", "module"),
    [
        ({"pyproject.toml": DG, "src/shop/definitions.py": ""}, "shop.definitions"),
        ({"dg.toml": '[project]\nroot_module = "shop"', "shop/definitions.py": ""},
         "shop.definitions"),
        ({"pyproject.toml": DG + 'code_location_target_module = "shop.x"', "src/shop/x.py": ""},
         "shop.x"),
        ({"pyproject.toml": '[tool.dagster]\nmodule_name = "shop"', "shop/__init__.py": ""},
         "shop"),
        ({"pyproject.toml": '[[tool.dagster.modules]]\ntype = "module"\nname = "shop"',
          "shop/__init__.py": ""}, "shop"),
        ({"pyproject.toml": "\ufeff" + DG, "src/shop/definitions.py": ""}, "shop.definitions"),
        ({"src/shop/definitions.py": "", "src/other/x.py": ""}, "shop.definitions"),
        ({"shop/definitions.py": ""}, "shop.definitions"),
        ({"definitions.py": ""}, "definitions"),
        ({"src/definitions.py": ""}, "definitions"),
        ({"pyproject.toml": "[project]\nname = 'x'", "shop/definitions.py": ""},
         "shop.definitions"),
    ],
)  # fmt: skip
def test_definitions_are_found_where_dagster_s_own_commands_find_them(tmp_path, files, module):
    assert definitions_module(project(tmp_path, files)) == module


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "no package has one"),
        ({"shop/repository.py": ""}, "no package has one.*module_name"),
        ({"src/a/definitions.py": "", "b/definitions.py": ""}, "several packages have one.*a.*b"),
        ({"pyproject.toml": DG}, "names the module shop.definitions, which is not there"),
        ({"pyproject.toml": "[tool"}, "pyproject.toml cannot be read"),
    ],
)
def test_without_definitions_it_says_what_to_add(tmp_path, files, said):
    with pytest.raises(NoDefinitions, match=said):
        definitions_module(project(tmp_path, files))


@pytest.fixture
def image(tmp_path, monkeypatch):
    """The folders of an image, and of the volume and the host that hand_over sees."""
    monkeypatch.setattr(put_in, "DATA", tmp_path / "volume")
    monkeypatch.setattr(put_in, "SEED", tmp_path / "seed")
    monkeypatch.setattr(put_in, "SUMS", tmp_path / "seed.json")
    monkeypatch.setattr(hand_over, "DATA", tmp_path / "volume")
    monkeypatch.setattr(hand_over, "SEED", tmp_path / "seed")
    monkeypatch.setattr(hand_over, "SUMS", tmp_path / "seed.json")
    (tmp_path / "volume").mkdir()
    return tmp_path


SHOP = {"shop/definitions.py": "", "data/raw/orders.csv": "1", "README.md": ""}


def rebuild(image, files, folders=("data",)):
    for name in ("source", "code", "seed"):
        subprocess.run(["rm", "-rf", image / name], check=True)
    put_in.put_in(project(image / "source", files), image / "code", list(folders))


def test_a_project_is_put_in_without_secrets_caches_and_what_is_large(image):
    hidden = {".env": "x", ".env.local": "x", ".envrc": "x", "app/prod.env": "x", ".env~": "x",
              ".git/config": "", ".venv/bin/python": "",
              "shop/__pycache__/definitions.cpython-313.pyc": ""}  # fmt: skip
    rebuild(image, SHOP | hidden)
    found = {str(p.relative_to(image / "code")) for p in (image / "code").rglob("*")}
    assert found == {"app", "shop", "shop/definitions.py", "README.md", "data"}
    assert (image / "code/data").readlink() == image / "volume/data"


@pytest.mark.parametrize("folder", ["..", "/etc", ".", "README.md", "data/../.."])
def test_a_data_folder_that_is_none_of_the_project_s_is_refused(image, folder):
    with pytest.raises(put_in.Unusable, match="a link, a file or outside of the project"):
        rebuild(image, SHOP, [folder])


def test_a_data_folder_that_is_a_link_is_refused(image):
    source = project(image / "source", {"shop/definitions.py": "", "storage/a": ""})
    (source / "data").symlink_to("storage")
    with pytest.raises(put_in.Unusable, match="data, which is a link"):
        put_in.put_in(source, image / "code", ["data"])


@pytest.mark.parametrize("folders", [["data/raw", "data"], ["data", "data/raw"]])
def test_data_folders_inside_each_other_are_refused(image, folders):
    with pytest.raises(put_in.Unusable, match="data/raw, which is inside another"):
        rebuild(image, SHOP, folders)


def test_the_same_data_folder_twice_is_one(image):
    rebuild(image, SHOP, ["data", "data/"])
    assert (image / "seed/data/raw/orders.csv").is_file()


def test_an_env_file_that_leads_out_of_the_project_is_refused(image, monkeypatch):
    monkeypatch.setattr(hand_over, "HOST", image)
    (image / ".env").symlink_to("../shared.env")
    with pytest.raises(SystemExit, match="a link to a file outside of the project"):
        hand_over.hand_over_settings()


@pytest.mark.parametrize(
    "name", ["control_plane/__init__.py", "src/dagster/__init__.py", "json.py"]
)
def test_a_module_that_hides_one_of_python_s_or_dagster_s_is_refused(image, name):
    with pytest.raises(put_in.Unusable, match="has the name of a module of Python or of Dagster"):
        rebuild(image, SHOP | {name: ""})


def fill(image, before):
    """Fills the data folders as the next start does; returns what was kept, and the new sums."""
    return hand_over.fill_data_folders(before), json.loads((image / "seed.json").read_text())


def test_data_folders_begin_with_what_the_image_has_and_follow_it_unless_runs_changed_them(image):
    orders, volume = image / "code/data/raw/orders.csv", image / "volume"
    rebuild(image, SHOP | {"data/raw/prices.csv": "1"}, ["data", "out/reports"])
    kept, sums = fill(image, {})
    assert not kept
    assert orders.read_text() == "1"
    assert (volume / "out/reports").is_dir()
    # A run writes one of its own, changes one and deletes one.
    (volume / "data/new.csv").write_text("mine")
    (volume / "data/raw/prices.csv").write_text("mine")
    rebuild(image, SHOP | {"data/raw/orders.csv": "2", "data/raw/prices.csv": "2"})
    kept, sums = fill(image, sums)
    assert kept == ["data/raw/prices.csv"]
    assert orders.read_text() == "2"
    assert (volume / "data/raw/prices.csv").read_text() == "mine"
    orders.unlink()
    assert fill(image, sums) == ([], sums)
    assert not orders.exists()
    assert (volume / "data/new.csv").read_text() == "mine"
    # Deleted by a run, changed in the image: as the run left it.
    rebuild(image, SHOP | {"data/raw/orders.csv": "3", "data/raw/prices.csv": "2"})
    assert fill(image, sums)[0] == ["data/raw/orders.csv"]
    assert not orders.exists()


@pytest.mark.parametrize("trap", ["fifo", "folder", "link", "dead link", "parent", "sparse"])
def test_whatever_runs_put_in_a_file_s_place_the_next_start_neither_waits_nor_fails(image, trap):
    rebuild(image, SHOP)
    _, sums = fill(image, {})
    orders = image / "volume/data/raw/orders.csv"
    orders.unlink()
    victim = image / "victim"
    victim.write_text("1")  # as the image had it
    match trap:
        case "fifo":
            os.mkfifo(orders)
        case "folder":
            orders.mkdir()
        case "link":
            orders.symlink_to(victim)
        case "dead link":
            orders.symlink_to(image / "nowhere")
        case "parent":
            orders.parent.rmdir()
            orders.parent.write_text("a file")
        case "sparse":
            with orders.open("wb") as file:
                file.truncate(2**42)
    rebuild(image, SHOP | {"data/raw/orders.csv": "2"})
    assert "data/raw/orders.csv" in fill(image, sums)[0]
    assert victim.read_text() == "1"
    assert not (image / "nowhere").exists()


SERVED = """
import json, os, pathlib, sys
from control_plane.code_server import hand_over, put_in
put_in.PROJECT = pathlib.Path(sys.argv[1])
hand_over.SETTINGS = pathlib.Path(sys.argv[1]) / "settings"
from dagster._core.workspace.autodiscovery import loadable_targets_from_python_module
(target,) = loadable_targets_from_python_module("control_plane.code_server.served", None)
job = target.target_definition().resolve_implicit_global_asset_job_def()
print(json.dumps([job.executor_def.name, os.environ.get("NAME"), os.environ["PATH"] != "x"]))
"""


def serve(folder, settings=""):
    (folder / "settings").mkdir()
    (folder / "settings/.env").write_text(settings)
    done = subprocess.run(
        [sys.executable, "-c", SERVED, str(folder)],
        # A name that projects use for something else.
        env={**os.environ, "PYTHONPATH": str(ROOT), "PROJECT": "my-cloud-project"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("executor", "expected"),
    [("", "in_process"), (", executor=dg.multiprocess_executor", "multiprocess")],
)
def test_a_project_that_names_no_executor_gets_the_one_in_process(tmp_path, executor, expected):
    project(tmp_path, {"shop/definitions.py": DEFINITIONS.format(executor)})
    assert serve(tmp_path)[0] == expected


def test_the_project_s_env_file_is_in_the_environment_but_cannot_change_the_platform_s(tmp_path):
    project(tmp_path, {"shop/definitions.py": DEFINITIONS.format("")})
    assert serve(tmp_path, 'NAME="a b"\nPATH=x\n')[1:] == ["a b", True]
