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
    parser.add_argument("--check", action="store_true", help="build and push, and start nothing")
    history = parser.add_mutually_exclusive_group()
    history.add_argument("--restore", metavar="FILE", help="bring the history in a backup")
    history.add_argument("--fresh", action="store_true", help="without this machine's history")
    reading.add_keys(parser)
    parser.add_argument("--anyway", action="store_true", help="even if something would be lost")


def run(stack: Stack, flags: Namespace) -> None:
    """Raises StackError with the reason when a part of it does not work."""
    cluster = Cluster(stack)
    with locks.alone(stack, "cluster-up"):
        cluster.refuse_other()
        if not (flags.check or flags.restore or flags.fresh):
            cluster.refuse_without_history()
        cluster.refuse_without_rights()
        say(f"building images for {len(cluster.items('nodes'))} nodes")
        cluster.build()
        images = cluster.images(push=True)
        base = cluster.phases(images, {})["base"]
        cluster.phases(images, dict.fromkeys(cluster.names(base), "127.0.0.1"))
        if flags.check:
            say("the stack can be started there: ./stack cluster-up")
            return
        history = cluster_history.to_bring(cluster, flags)
        cluster.apply(base)
        cluster.remember(marks.UP)
        if history:
            history.begin()
        cluster_secrets.put_all(cluster)
        phases = cluster.phases(images, cluster.addresses(base))
        changed = cluster_deploys.check(cluster, phases["code"], anyway=flags.anyway)
        for service in cluster.stack.projects:
            cluster_secrets.put_settings(cluster, service)
        for phase, objects in phases.items():
            say(f"applying: {phase}")
            if phase == "migration":  # a Job cannot be changed
                with suppress(StackError):
                    cluster.kubectl("delete", "job/migrate")
            cluster_secrets.sign(cluster, objects)
            cluster.apply(objects)
            if phase != "base":
                rollouts.wait(cluster, objects)
            if phase == "database" and history:
                history.bring_database()
        cluster_history.settle(cluster)
        for service in changed:
            cluster_deploys.reload(cluster, service)
    say(
        f"up: {cluster.name}. The web UI: kubectl port-forward --namespace={cluster.name}"
        " service/edge 3000:8080 (make cluster-status)"
    )
