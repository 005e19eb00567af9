"""Write a backup of the stack on a Kubernetes cluster: a file like that of `backup`."""

from __future__ import annotations

import signal
from argparse import ArgumentParser, Namespace

from cli import backup_files, cluster_history, locks, rollouts
from cli.cluster import PART_OF, Cluster
from cli.output import note, say
from cli.stack import Stack
from cli.verbs import backup, cluster_down

GONE = "wait", "--for=delete", "pod", "--timeout=120s"
NAME = "--selector=app.kubernetes.io/name"


def add(parser: ArgumentParser) -> None:
    """The flags."""
    backup.add(parser)


def run(stack: Stack, flags: Namespace) -> None:
    """Raises StackError when there is no complete backup."""
    cluster = Cluster(stack)
    cluster.refuse_other()
    backups = cluster_history.ClusterBackups(cluster)
    if not flags.last:
        backup_files.write_new(backups, flags.to, flags.keep)
        return
    with locks.alone(stack, "cluster-up"):
        parts = {
            one["metadata"]["name"]: one["spec"]["replicas"]
            for one in cluster.items("deployments", f"--selector={PART_OF}={cluster.name}")
        }
        try:
            say("stopping the daemon: no further run starts")
            cluster.kubectl("scale", "deployment/daemon", "--replicas=0")
            # Until it has ended, it may launch one more.
            cluster.kubectl(*GONE, f"{NAME}=daemon")
            rollouts.let_runs_end(cluster)
            say("stopping the web UI: the backup then has the last change")
            cluster.kubectl("scale", *(f"deployment/{one}" for one in parts), "--replicas=0")
            cluster.kubectl(*GONE, f"{NAME}=webserver")
            file = backup_files.write_new(backups, flags.to, flags.keep)
            cluster_history.note_moved(cluster, file)
        except BaseException:
            # A second Ctrl-C must not leave the stack without a daemon.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            note("the stack stays up: starting again what was stopped")
            for name, replicas in parts.items():
                cluster.kubectl("scale", f"deployment/{name}", f"--replicas={replicas}")
            raise
        cluster_down.stop(cluster)
