"""The common end of each measurement: prints the table and writes the report."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cli.output import table


def write(title: str, method: str, rows: Sequence[Sequence[str]]) -> None:
    """Prints a table, and writes it to the file that the command line names.

    Args:
        title: The heading of the report.
        method: What was measured, and how. The number of cores and the date precede it.
        rows: The table; the first row is its heading.
    """
    result = table(rows)
    print(result)
    Path(sys.argv[1]).write_text(
        f"# {title}\n\n`make bench`, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}. {method}"
        f"\n\n```\n{result}\n```\n"
    )
