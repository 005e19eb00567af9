"""The operator's commands, as the tests use them. No other file of the tests imports them."""

import sys

from demo import FINAL, RUN
from stack import LAUNCH, OPERATOR, STACK_LABEL, Stack, StackError, basic, docker

# Runs a verb; relative to a checkout.
COMMAND = (sys.executable, "cli/stack.py")

__all__ = [
    "COMMAND",
    "FINAL",
    "LAUNCH",
    "OPERATOR",
    "RUN",
    "STACK_LABEL",
    "Stack",
    "StackError",
    "basic",
    "docker",
]
