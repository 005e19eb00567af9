"""Write the images for a cluster without a registry: `./stack cluster-images >images.tar`."""

from __future__ import annotations

import subprocess
import sys
from argparse import ArgumentParser, Namespace

from cli.cluster import Cluster
from cli.errors import StackError
from cli.output import note
from cli.stack import Stack


def add(parser: ArgumentParser) -> None:
    """It has no flags."""
    del parser


def run(stack: Stack, flags: Namespace) -> None:
    """Raises StackError when an image cannot be built."""
    del flags
    if sys.stdout.isatty():
        raise StackError("this writes an archive: ./stack cluster-images >images.tar")
    cluster = Cluster(stack)
    cluster.build()
    refs = [one["ref"] for one in cluster.images(push=False).values()]
    note(f"writing {len(refs)} images; on each node: ctr --namespace k8s.io images import -")
    done = subprocess.run(["docker", "save", *refs], check=False)
    if done.returncode:
        raise StackError("docker save failed: the reason is above")
