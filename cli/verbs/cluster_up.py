"""Start the stack on a Kubernetes cluster, or put new code and settings live there."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from contextlib import suppress

from cli import (
    cluster_deploys,
    cluster_history,
    cluster_secrets,
    locks,
    marks,
    reading,
    rollouts,
)
from cli.cluster import Cluster
from cli.errors import StackError
from cli.output import say
from cli.stack import Stack


def add(parser: ArgumentParser) -> None:
    """The flags."""
    history = parser.add_mutually_exclusive_group()
    history.add_argument("--move", action="store_true", help="bring this machine's history")
    history.add_argument("--restore", metavar="FILE", help="bring the history in a backup")
    reading.add_keys(parser)
    parser.add_argument(
        "--anyway", action="store_true", help="even if something that is switched on would end"
    )


def run(stack: Stack, flags: Namespace) -> None:
    """Raises StackError with the reason when a part of it does not work."""
    cluster = Cluster(stack)
    with locks.alone(stack, "cluster-up"):
        nodes = len(cluster.get("nodes")["items"])
        say(f"building images for {nodes} nodes")
        cluster.build()
        history = cluster_history.to_bring(cluster, flags)
        images = cluster.images(push=True)
        base = cluster.phases(images, {})["base"]
        cluster.apply(base)
        if history:
            history.bring_passwords()
        cluster_secrets.put_all(cluster)
        phases = cluster.phases(images, cluster.addresses(base))
        changed = cluster_deploys.check(cluster, phases["code"], anyway=flags.anyway)
        for phase, objects in phases.items():
            say(f"applying: {phase}")
            if phase == "migration":  # a Job cannot be changed
                with suppress(StackError):
                    cluster.kubectl("delete", "job/migrate")
            if phase == "control plane" and flags.move:
                marks.put_moved(stack)
            cluster.apply(objects)
            if phase != "base":
                rollouts.wait(cluster, objects)
            if phase == "database" and history:
                history.bring_database()
        for service in changed:
            cluster_deploys.reload(cluster, service)
    say(
        f"up: {cluster.name}. The web UI: kubectl port-forward --namespace={cluster.name}"
        " service/edge 3000:8080 (make cluster-status)"
    )
