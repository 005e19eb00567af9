"""Creates or upgrades the schema of the instance database; refuses a bad dagster.yaml.

The gap: webserver and daemon both create missing tables and neither migrates old ones, and
`dagster instance migrate` does not look at the rest of dagster.yaml. This is a one-shot that both
wait for, so that whatever is wrong is said once, by name, before anything starts.
"""

import sys

from dagster import DagsterInstance


def main() -> None:
    """Exits with status 1 and one line when the configuration or the database is refused."""
    try:
        with DagsterInstance.get() as instance:
            # Built lazily, in a thread of the daemon, if not asked for here.
            _ = instance.run_launcher
            _ = instance.run_coordinator
            instance.upgrade(lambda line: print(f"migrate: {line}"))
    except Exception as error:
        reason = " ".join(f"{error} {error.__cause__ or ''}".split())
        sys.exit(f"migrate: refused, nothing else was started: {reason}")


if __name__ == "__main__":
    main()
