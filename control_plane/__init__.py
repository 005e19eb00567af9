"""Our own Python in the control plane: only what Dagster's configuration cannot express."""
