"""The common end of each measurement: prints the table and writes the report."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cli.output import table


def write(
    title: str,
    method: str,
    rows: Sequence[Sequence[str]],
    *,
    verb: str = "make bench",
    file: Path | None = None,
) -> None:
    """Prints a table, and writes it to a file.

    Args:
        title: The heading of the report.
        method: What was measured, and how. The verb, the number of cores and the date precede it.
        rows: The table; the first row is its heading.
        verb: What measured it.
        file: The file. The default is the one that the command line names.
    """
    result = table(rows)
    print(result)
    (file or Path(sys.argv[1])).write_text(
        f"# {title}\n\n`{verb}`, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}. {method}"
        f"\n\n```\n{result}\n```\n"
    )
