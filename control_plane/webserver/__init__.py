"""The web server: Dagster's own, limited to known requests, with a safe way to read step logs."""
