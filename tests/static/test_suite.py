"""How the test suite is built: modules that stand alone, and shared code in one place."""

import ast
import re
from collections import Counter
from ipaddress import ip_network

from support import ROOT, scheduler
from support.leases import Lease, routed_networks

TESTS = ROOT / "tests"
MODULES = sorted(TESTS.rglob("test_*.py"))
FOLDERS = {path.relative_to(TESTS).parts[0] for path in MODULES}


def imported(file):
    """The names of modules that a file imports, at any place in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module or ''}.{alias.name}".lstrip(".") for alias in node.names)


def test_no_test_module_imports_another():
    assert len(MODULES) > 30
    names = {module.stem for module in MODULES} | {"conftest"}
    for file in [*MODULES, *TESTS.rglob("conftest.py"), *(TESTS / "support").glob("*.py")]:
        parts = {part for name in imported(file) for part in name.split(".")}
        assert not parts & names, file


def test_names_of_test_modules_are_unique():
    counts = Counter(module.name for module in MODULES)
    assert [name for name, count in counts.items() if count > 1] == []


def test_one_file_of_the_tests_imports_the_operator_s_commands():
    for file in TESTS.rglob("*.py"):
        if file != TESTS / "support/cli.py":
            assert "cli" not in {name.split(".")[0] for name in imported(file)}, file


def test_the_readme_of_the_tests_describes_every_folder():
    rows = re.findall(r"^\| `(\w+)/` \|", (TESTS / "README.md").read_text(), re.M)
    assert set(rows) == FOLDERS | {"support", "projects"}


def test_the_scheduler_names_modules_and_tests_that_exist():
    for group in {*scheduler.SPLIT, *scheduler.SECONDS}:
        module, _, test = group.partition("::")
        assert f"def {test}" in (ROOT / module).read_text(), group
    for beginning in scheduler.NOT_SHARED:
        assert list(ROOT.glob(f"{beginning}*")), beginning


def test_stacks_that_are_there_together_have_ports_and_addresses_of_their_own():
    leases = [Lease() for _ in range(3)]
    subnets = [
        ip_network(network["ipam"]["config"][0]["subnet"])
        for lease in leases
        for network in lease.subnets("abcdefgh").values()
    ]
    for lease in leases:
        lease.release()
    assert len({lease.port for lease in leases}) == 3
    assert len(subnets) == 24
    taken = [*subnets, *routed_networks()]
    for subnet in subnets:
        assert [other for other in taken if other.overlaps(subnet)] == [subnet]
