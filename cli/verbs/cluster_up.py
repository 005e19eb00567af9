"""Start the stack on a Kubernetes cluster, or put new code and settings live there."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from contextlib import suppress

from cli import cluster_secrets, locks, rollouts
from cli.cluster import Cluster
from cli.errors import StackError
from cli.output import say
from cli.stack import Stack


def add(parser: ArgumentParser) -> None:
    """It has no flags."""
    del parser


def run(stack: Stack, flags: Namespace) -> None:
    """Raises StackError with the reason when a part of it does not work."""
    del flags
    cluster = Cluster(stack)
    with locks.alone(stack, "cluster-up"):
        nodes = len(cluster.get("nodes")["items"])
        say(f"building images for {nodes} nodes")
        cluster.build()
        images = cluster.images(push=True)
        base = cluster.phases(images, {})["base"]
        cluster.apply(base)
        cluster_secrets.put_all(cluster)
        phases = cluster.phases(images, cluster.addresses(base))
        for phase, objects in phases.items():
            say(f"applying: {phase}")
            if phase == "migration":  # a Job cannot be changed
                with suppress(StackError):
                    cluster.kubectl("delete", "job/migrate", f"--namespace={cluster.name}")
            cluster.apply(objects)
            if phase != "base":
                rollouts.wait(cluster, objects)
    say(
        f"up: {cluster.name}. The web UI: kubectl port-forward --namespace={cluster.name}"
        " service/edge 3000:8080 (make cluster-status)"
    )
