"""Which tests of `make test` run side by side.

Tests of one group run one after the other, in one process. A group is a module, or a single test
of the modules in SPLIT. Each process has a stack of its own for the tests that can share one, so no
test meets another one's runs. Groups that take long start first.
"""

from xdist.scheduler import LoadScopeScheduling

# Modules whose tests have nothing in common but the stack.
SPLIT = ()
# Seconds that a group takes on two cores, if that is more than a few.
SECONDS = {}
# Groups that make stacks of their own, by the beginning of their name.
OWN_STACK = ("tests/stores/", "tests/stack/test_stock_launcher", "tests/stack/test_wrong_input")
NO_STACK = ("tests/static/", "tests/unit/", "tests/machine/")


def group_of(nodeid):
    """The group that a test is in."""
    module, _, test = nodeid.partition("::")
    return f"{module}::{test.partition('[')[0]}" if module in SPLIT else module


class GroupScheduling(LoadScopeScheduling):
    """One process makes the stacks that tests do not share, the others share one each."""

    def _split_scope(self, nodeid):
        return group_of(nodeid)

    def _assign_work_unit(self, node):
        shares = node is not self.nodes[-1]

        def rank(group):
            alone = group.startswith((*OWN_STACK, *NO_STACK))
            return alone == shares, -SECONDS.get(group, 0)

        self.workqueue.move_to_end(min(self.workqueue, key=rank), last=False)
        super()._assign_work_unit(node)
