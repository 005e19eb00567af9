"""The error that ends a verb, and the exit statuses of the command line."""

# The verb was not carried out, or found something wrong. argparse exits with 2 for a wrong verb.
FAILED = 1
INTERRUPTED = 130


class StackError(Exception):
    """What happened, where to look and what to do, in one line."""
