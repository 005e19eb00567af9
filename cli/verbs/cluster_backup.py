"""Write a backup of the stack on a Kubernetes cluster: a file like that of `backup`."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from cli import backup_files, rollouts
from cli.cluster import Cluster
from cli.cluster_history import ClusterBackups
from cli.output import say
from cli.stack import Stack
from cli.verbs import backup, cluster_down

DAEMON = "--selector=app.kubernetes.io/name=daemon"


def add(parser: ArgumentParser) -> None:
    """The flags."""
    backup.add(parser)


def run(stack: Stack, flags: Namespace) -> None:
    """Raises StackError when there is no complete backup."""
    cluster = Cluster(stack)
    cluster.refuse_other()
    if flags.last:
        say("stopping the daemon: no further run starts")
        cluster.kubectl("scale", "deployment/daemon", "--replicas=0")
        cluster.kubectl("wait", "--for=delete", "pod", DAEMON, "--timeout=120s")
        rollouts.let_runs_end(cluster)
    backup_files.write_new(ClusterBackups(cluster), flags.to, flags.keep)
    if flags.last:
        cluster_down.stop(cluster)
