"""Creates or upgrades the schema of the instance database, and checks dagster.yaml.

The gap: web server and daemon create missing tables, and neither upgrades old ones.
`dagster instance migrate` does not check the rest of dagster.yaml. All three expect one database
role. This one-shot service runs before web server and daemon, as the role that owns the tables. It
reports a fault once, by name, before they start.
"""

import sys
from pathlib import Path
from typing import cast

from dagster import DagsterInstance
from dagster_postgres import DagsterPostgresStorage, PostgresRunStorage

from control_plane.code_server import object_store

POSTGRES = Path(__file__).parent / "postgres"
FILES = "grants", "notifications", "warm_containers", "deploys", "ended_runs", "only_daemon"


def main() -> None:
    """Exits with status 1 and one line when the configuration or the database is refused."""
    try:
        with DagsterInstance.get() as instance:
            # Dagster builds both on first use. This checks their settings now.
            _ = instance.run_launcher
            _ = instance.run_coordinator
            refuse_other_store(instance)
            runs = cast("PostgresRunStorage", instance.run_storage)
            # Creates missing tables. With the setting in dagster.yaml no other role tries to.
            DagsterPostgresStorage(runs.postgres_url, should_autocreate_tables=True)
            instance.upgrade(lambda line: print(f"migrate: {line}"))
            # The web UI would store this on first use, but its role lacks the permission.
            runs.get_run_storage_id()
            with runs.connect() as connection:
                # Without parameters: a percent sign in the file is not a placeholder.
                connection.execution_options(no_parameters=True)
                # In one transaction: a daemon may be at work.
                texts = [(POSTGRES / f"{file}.sql").read_text() for file in FILES]
                connection.exec_driver_sql("\n".join(texts))
    except Exception as error:
        reason = " ".join(f"{error} {error.__cause__ or ''}".split())
        sys.exit(f"migrate: refused, nothing else was started: {reason}")


def refuse_other_store(instance: DagsterInstance) -> None:
    """Raises an error when the images were built for another STORE, or its settings are wrong."""
    logs = instance.get_ref().compute_logs_data
    is_built_for_store = logs.module_name == object_store.LOG_MANAGER["module"]
    if is_built_for_store != bool(object_store.configured()):
        raise RuntimeError("STORE in .env is not what the images were built with: make up")


if __name__ == "__main__":
    main()
