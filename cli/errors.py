"""The error that ends a verb, and the exit statuses of the command line."""

# The verb failed, or found a problem. argparse exits with 2 for a wrong verb or flag.
FAILED = 1
INTERRUPTED = 130
OUTPUT_CLOSED = 141  # as a shell says it: 128 + SIGPIPE


class StackError(Exception):
    """What happened, where to look and what to do, in one line."""
