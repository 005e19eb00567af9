"""Which tests of `make test` run side by side.

Tests of one group run one after the other, in one process. A group is a module, or a single test
of the modules in SPLIT. Each process has a stack of its own for the tests that can share one, so no
test meets another one's runs. Groups that take long start first.
"""

from xdist.scheduler import LoadScopeScheduling

# Tests that are a group each: modules whose tests have nothing in common but the stack, and tests.
SPLIT = {
    "tests/stack/test_command_line.py",
    "tests/stack/test_hostile_clients.py",
    "tests/stack/test_hostile_logs.py",
    "tests/stack/test_run_ends.py",
    "tests/stack/test_runs.py",
    "tests/stack/test_services.py::test_down_and_up_keeps_history_also_without_a_password_volume",
    "tests/stack/test_services.py::test_plain_compose_starts_a_second_stack_beside_the_first",
    "tests/stack/test_triggers.py",
    "tests/stack/test_wrong_input.py",
}
# Seconds that a group takes, by the beginning of its name, if that is more than a few.
SECONDS = {
    "tests/browser/test_requests.py": 40,
    "tests/browser/test_sign_in_page.py": 60,
    "tests/browser/test_ui.py": 130,
    "tests/chaos/test_chaos.py": 110,
    "tests/machine/test_debian_13.py": 350,
    "tests/stores/test_io_managers.py": 350,
    "tests/stack/test_command_line.py::test_a_changed": 80,
    "tests/stack/test_command_line.py::test_dagster_s_own": 30,
    "tests/stack/test_backups.py": 150,
    "tests/stack/test_deploys.py": 150,
    "tests/stack/test_doctor.py": 120,
    "tests/stack/test_edge_settings.py": 70,
    "tests/stack/test_ended_runs.py": 40,
    "tests/stack/test_forged_runs.py": 100,
    "tests/stack/test_hostile_clients.py": 50,
    "tests/stack/test_hostile_logs.py::test_no_read": 60,
    "tests/stack/test_kept_in_store.py": 300,
    "tests/stack/test_memory.py": 60,
    "tests/stack/test_missed_ticks.py": 30,
    "tests/stack/test_request_fuzz.py": 90,
    "tests/stack/test_run_ends.py": 30,
    "tests/stack/test_run_images.py": 60,
    "tests/stack/test_run_step.py": 50,
    "tests/stack/test_scaffolded_files.py": 120,
    "tests/stack/test_moving_in.py": 150,
    "tests/stack/test_tutorial.py": 120,
    "tests/stack/test_services.py::test_plain_compose": 100,
    "tests/stack/test_services.py": 40,
    "tests/stack/test_stock_launcher.py": 150,
    "tests/stack/test_triggers.py": 30,
    "tests/stack/test_triggers.py::test_a_webhook": 80,
    "tests/stack/test_triggers.py::test_each_file": 70,
    "tests/stack/test_upgrade.py": 200,
    "tests/stack/test_woken_queue.py": 30,
    "tests/stack/test_wrong_input.py::test_an_unset": 60,
    "tests/unit/test_guard.py": 40,
}
# Groups that make stacks of their own, or none, by the beginning of their names.
NOT_SHARED = (
    "tests/chaos/",
    "tests/stores/",
    "tests/stack/test_backups",
    "tests/stack/test_deploys",
    "tests/stack/test_doctor",
    "tests/stack/test_kept_in_store",
    "tests/stack/test_moving_in",
    "tests/stack/test_scaffolded_files",
    "tests/stack/test_stock_launcher",
    "tests/stack/test_tutorial",
    "tests/stack/test_upgrade",
    "tests/stack/test_wrong_input",
    "tests/static/",
    "tests/unit/",
    "tests/machine/",
)


def group_of(nodeid):
    """The group that a test is in."""
    module, _, test = nodeid.partition("::")
    function = f"{module}::{test.partition('[')[0]}"
    return function if SPLIT & {module, function} else module


def seconds_of(group):
    """How long a group takes, about: what SECONDS says of the longest beginning of its name."""
    start = max((start for start in SECONDS if group.startswith(start)), key=len, default="")
    return SECONDS.get(start, 10)


class GroupScheduling(LoadScopeScheduling):
    """One process takes the groups that do not use the shared stack, the others the rest."""

    def _split_scope(self, nodeid):
        return group_of(nodeid)

    def _assign_work_unit(self, node):
        shares = node is not self.nodes[-1]

        def rank(group):
            return group.startswith(NOT_SHARED) == shares, -seconds_of(group)

        self.workqueue.move_to_end(min(self.workqueue, key=rank), last=False)
        super()._assign_work_unit(node)
