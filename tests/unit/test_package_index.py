"""Which package index set-up finds where pip has files of its own but is not installed."""

import subprocess
import sys

import pytest

from support import ROOT


@pytest.fixture
def index(tmp_path):
    """Asks with files of the test's own; the system's come before them."""
    user, named = tmp_path / ".config/pip/pip.conf", tmp_path / "named.conf"
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin"}

    def ask(user_file, named_file="", **more):
        user.parent.mkdir(parents=True, exist_ok=True)
        user.write_text(user_file)
        named.write_text(named_file)
        return subprocess.run(
            [sys.executable, "-I", ROOT / "machine/package_index.py"],
            env={**environment, "PIP_CONFIG_FILE": str(named), **more},
            capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip

    return ask


ONE = "[global]\nindex-url = https://one.example/simple\n"
TWO = "[global]\nindex_url: https://two.example/%7Esimple\n"


def test_the_index_of_a_user_s_file_is_found(index):
    assert index(ONE) == "https://one.example/simple"


def test_the_file_that_the_environment_names_wins(index):
    assert index(ONE, TWO) == "https://two.example/%7Esimple"


def test_the_section_of_pip_install_wins(index):
    assert index("[install]\nindex-url = https://three.example\n", ONE) == "https://three.example"


def test_pip_s_switch_for_no_configuration_is_honoured(index):
    assert index(ONE, PIP_CONFIG_FILE="/dev/null") == ""
