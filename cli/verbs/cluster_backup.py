"""Write a backup of the stack on a Kubernetes cluster: a file like that of `backup`."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from cli.cluster import Cluster
from cli.cluster_history import ClusterBackups
from cli.stack import Stack
from cli.verbs import backup


def add(parser: ArgumentParser) -> None:
    """The flags."""
    backup.add(parser)


def run(stack: Stack, flags: Namespace) -> None:
    """Raises StackError when there is no complete backup."""
    backup.write(ClusterBackups(Cluster(stack)), flags)
