"""The control plane's own Python: only what Dagster's configuration cannot say."""
