"""Stop the stack on a Kubernetes cluster and keep its data."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from cli import locks, marks
from cli.cluster import PART_OF, Cluster
from cli.errors import StackError
from cli.output import ask, can_ask, say
from cli.stack import Stack

WORKLOADS = "deployments,statefulsets,jobs"
RULES = "validatingadmissionpolicies,validatingadmissionpolicybindings"


def add(parser: ArgumentParser) -> None:
    """The flags."""
    parser.add_argument("--destroy", action="store_true", help="also delete its data, after asking")
    parser.add_argument("--force", action="store_true", help="do not ask")


def run(stack: Stack, flags: Namespace) -> None:
    """Raises StackError when nothing was deleted."""
    cluster = Cluster(stack)
    cluster.refuse_other()
    if flags.destroy and not flags.force:
        if not can_ask():
            raise StackError(
                "this deletes data and cannot ask here: cluster-down --destroy --force"
            )
        if not ask(f"Delete all runs and passwords of {cluster.name} at {cluster.server}?"):
            raise StackError("nothing was deleted")
    with locks.alone(stack, "cluster-up"):
        stop(cluster)
        if flags.destroy:
            cluster.kubectl("delete", RULES, f"--selector={PART_OF}={cluster.name}")
            cluster.kubectl("delete", f"namespace/{cluster.name}", "--wait")
            cluster.note.unlink(missing_ok=True)
    say(f"{cluster.name} is down, its data " + ("deleted" if flags.destroy else "kept"))


def stop(cluster: Cluster) -> None:
    """Ends the daemon, so that no further run starts, and then the rest."""
    cluster.kubectl("delete", "deployment/daemon", "--ignore-not-found", "--wait")
    # A run that is stopped is launched again.
    own = f"--selector={PART_OF}={cluster.name}"
    cluster.kubectl("delete", WORKLOADS, own, "--wait", "--cascade=foreground")
    cluster.remember(marks.DOWN)
