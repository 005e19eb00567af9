"""The test stacks of a session: each is made once, and nothing is left of any."""

import shutil
import tempfile
from pathlib import Path

from support import leftovers
from support.harness import EXTRA_DEFINITIONS, PREFIX, TestStack, checkout


class Stacks:
    """The stacks of this process; their names are in files, which outlive it if it is killed."""

    def __init__(self, register):
        self.register = Path(register)
        self.made = []

    def make(self, name, *, extra_definitions=False, **settings):
        """A stack that is not started yet; its name begins as those of all test stacks do."""
        name = f"{PREFIX}-{name}"
        (self.register / name).touch()
        root = checkout(Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.register)))
        stack = TestStack(root, name, **settings)
        self.made.append(stack)
        if extra_definitions:
            defs = root / "code_location/src/code_location/defs"
            shutil.copy(EXTRA_DEFINITIONS, defs / EXTRA_DEFINITIONS.name)
        return stack

    def remove(self, stack):
        """Deletes a stack, its images and its checkout."""
        self.made.remove(stack)
        complaints = leftovers.remove(stack.registered)
        assert not complaints, complaints
        shutil.rmtree(stack.root)
        stack.lease.release()
        (self.register / stack.registered).unlink(missing_ok=True)

    def remove_all(self):
        """Deletes those that are left."""
        while self.made:
            self.remove(self.made[-1])


def sweep(register):
    """Deletes what is left of stacks whose processes did not come to their end; says so."""
    for file in sorted(Path(register).iterdir()):
        if file.is_file():
            print(f"removing what is left of the test stack {file.name}")
            for complaint in leftovers.remove(file.name):
                print(complaint)
    shutil.rmtree(register)
