"""The web server: Dagster's own, which answers known requests only and reads step logs safely."""
