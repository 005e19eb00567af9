"""The guard: the only process with the Docker socket. It checks every request to the engine."""
