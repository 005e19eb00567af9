"""Creates or upgrades the schema of the instance database; refuses a bad dagster.yaml.

The gap: webserver and daemon both create missing tables and neither migrates old ones,
`dagster instance migrate` does not look at the rest of dagster.yaml, and none of them knows of more
than one database role. This is a one-shot that both wait for, so that the tables are one role's
and whatever is wrong is said once, by name, before anything starts.
"""

import sys
from pathlib import Path
from typing import cast

from dagster import DagsterInstance
from dagster_postgres import DagsterPostgresStorage, PostgresRunStorage

GRANTS = Path(__file__).parent / "postgres/grants.sql"


def main() -> None:
    """Exits with status 1 and one line when the configuration or the database is refused."""
    try:
        with DagsterInstance.get() as instance:
            # Built lazily, in a thread of the daemon, if not asked for here.
            _ = instance.run_launcher
            _ = instance.run_coordinator
            runs = cast("PostgresRunStorage", instance.run_storage)
            # Creates missing tables, which dagster.yaml keeps everybody else from.
            DagsterPostgresStorage(runs.postgres_url, should_autocreate_tables=True)
            instance.upgrade(lambda line: print(f"migrate: {line}"))
            # Stored when first asked for, by the web UI: by somebody who may not.
            runs.get_run_storage_id()
            with runs.connect() as connection:
                # Without parameters, lest a percent sign be taken for the place of one.
                connection.execution_options(no_parameters=True).exec_driver_sql(GRANTS.read_text())
    except Exception as error:
        reason = " ".join(f"{error} {error.__cause__ or ''}".split())
        sys.exit(f"migrate: refused, nothing else was started: {reason}")


if __name__ == "__main__":
    main()
