"""Stands between the control plane and the Docker engine: it alone holds the socket."""
