"""The stack on a Kubernetes cluster: its images, Secrets and objects, through kubectl."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from cli import builds, commands, marks, store
from cli.cluster_client import PodClient
from cli.errors import StackError
from cli.kubectl import Kubectl
from cli.output import note
from cli.stack import Stack, docker

PROFILE = SERVICE = "cluster"
NOT_THERE = "guard", "daemon", "backup", "backup_store"
RIGHTS = "namespaces", "validatingadmissionpolicies", "validatingadmissionpolicybindings", "roles"
PART_OF = "app.kubernetes.io/part-of"


class Cluster(Kubectl):
    """One namespace, named like the stack."""

    def __init__(self, stack: Stack) -> None:
        """Asks the cluster nothing yet.

        Raises:
            StackError: A setting is refused.
        """
        profiles = stack.config["services"]["webserver"]["environment"]["COMPOSE_PROFILES"]
        active = ",".join(filter(None, [profiles, PROFILE]))
        self.stack = Stack(stack.root, {**stack.environment, "COMPOSE_PROFILES": active})
        self.config = self.stack.config
        self.settings: dict[str, str] = self.config["services"][SERVICE]["environment"]
        super().__init__(stack.name, self.settings["CLUSTER_CONTEXT"], self.stack.environment)
        self.stack.client = PodClient(self.execute)
        if not re.fullmatch(r"[a-z0-9-]+", self.name):
            raise StackError(f"STACK_NAME={self.name}: a namespace takes only a-z, 0-9 and -")
        if not store.is_used(stack):
            raise StackError("a cluster needs STORE=s3: nodes share no volumes")
        store.refuse_wrong(stack)

    @property
    def note(self) -> Path:
        """The file that says which cluster has the stack."""
        return marks.cluster_of(self.stack)

    def refuse_other(self) -> None:
        """Raises StackError for another cluster than before, or a namespace of somebody else."""
        if self.note.is_file() and self.note.read_text().split()[:1] != [self.identity]:
            raise StackError(
                f"{self.server} is another cluster than the one that has {self.name}: see"
                f" CLUSTER_CONTEXT, or delete {self.note} if it moved there"
            )
        there: dict[str, Any] | None = self.get("namespace", self.name)
        if there and there["metadata"].get("labels", {}).get(PART_OF) != self.name:
            raise StackError(f"the namespace {self.name} is not of this stack: set STACK_NAME")

    def refuse_without_history(self) -> None:
        """Raises StackError if this machine has a history, and the cluster knows no such stack."""
        here = docker(*commands.volumes(self.name)).split()
        if f"{self.name}_postgres-data" in here and not self.get("namespace", self.name):
            raise StackError(
                "this machine has a history: ./stack backup --last, then ./stack cluster-up"
                " --restore FILE; or --fresh to begin without it"
            )

    def refuse_without_rights(self) -> None:
        """Raises StackError if the operator may not make what the stack needs."""
        for one in RIGHTS:
            try:
                self.kubectl("auth", "can-i", "create", one)
            except StackError:
                raise StackError(f"you may not create {one} at {self.server}") from None

    # --- images

    @cached_property
    def built(self) -> list[str]:
        """The images that the cluster needs, by their names in Compose."""
        services: dict[str, dict[str, Any]] = self.config["services"]
        # There, the image of SERVICE is that of web server and daemon.
        left_out = {services[name]["image"] for name in NOT_THERE if name in services}
        return sorted({one["image"] for one in services.values()} - left_out)

    def build(self) -> None:
        """Builds them; raises StackError as builds.build does."""
        failed = builds.build(self.stack)
        if failed:
            raise StackError(" | ".join(f"code location {n}: {why}" for n, why in failed.items()))

    def images(self, *, push: bool) -> dict[str, dict[str, Any]]:
        """What the images are called on the cluster, and how they start.

        A name says which image it is, for ever: by its digest in a registry, otherwise by its ID.

        Args:
            push: Whether to push them to CLUSTER_REGISTRY, if there is one.
        """
        registry = self.settings["CLUSTER_REGISTRY"]
        found: dict[str, dict[str, Any]] = {}
        for image in self.built:
            (seen,) = json.loads(docker("image", "inspect", image))
            name, identifier = image.partition(":")[0], seen["Id"].partition(":")[2][:12]
            ref = f"{registry}/{name}:{identifier}" if registry else f"{name}:{identifier}"
            docker("tag", image, ref)
            if registry and push:
                docker("push", "--quiet", ref)
                (pushed,) = json.loads(docker("image", "inspect", ref))
                # Docker leaves out the name of its own registry.
                of = f"{registry}/{name}@".removeprefix("docker.io/")
                digests = [one for one in pushed["RepoDigests"] if one.startswith(of)]
                if not digests:
                    raise StackError(f"{ref} has no digest after it was pushed")
                ref = f"{registry}/{name}@{digests[0].partition('@')[2]}"
            config = seen["Config"]
            found[image] = {
                "ref": ref,
                "entrypoint": config.get("Entrypoint"),
                "cmd": config.get("Cmd"),
                "user": config.get("User") or "0",
            }
        return found

    # --- objects

    def phases(self, images: Mapping[str, Any], addresses: Mapping[str, str]) -> dict[str, Any]:
        """The objects by phase: see control_plane/cluster/manifests.py."""
        selector = "--selector=kubernetes.io/service-name=kubernetes"
        words = ("endpointslices", "--namespace=default", selector, "--output=json")
        api = json.loads(self.kubectl("get", *words))["items"]
        listening = [
            {"ip": address, "port": port["port"]}
            for one in api for end in one["endpoints"] for address in end["addresses"]
            for port in one["ports"]
        ]  # fmt: skip
        kept: dict[str, Any] = self.get("configmap", "run-images") or {"data": {}}
        earlier: dict[str, str] = kept["data"]
        given: dict[str, Any] = {
            "compose": self.config,
            "images": images,
            "addresses": addresses,
            "api": listening,
            "earlier": {name: refs.split() for name, refs in earlier.items()},
        }
        image: str = self.config["services"][SERVICE]["image"]
        command = ["docker", "run", "--rm", "--interactive", "--network=none", image]
        module = ["python", "-m", "control_plane.cluster.manifests"]
        done = subprocess.run(
            [*command, *module],
            input=json.dumps(given),
            text=True,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            *trace, reason = done.stderr.strip().splitlines() or ["the objects cannot be made"]
            if trace:
                note("\n".join(trace))
            raise StackError(reason)
        return json.loads(done.stdout)

    def addresses(self, services: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        """The addresses of the Services, by the names that they have in Compose."""
        there = {one["metadata"]["name"]: one["spec"]["clusterIP"] for one in
                 self.items("services")}  # fmt: skip
        return {name: there[name.replace("_", "-")] for name in self.names(services)}

    def names(self, objects: Sequence[Mapping[str, Any]]) -> list[str]:
        """The names that the Services among some objects have in Compose."""
        known = {name.replace("_", "-"): name for name in self.config["services"]}
        return [known[one["metadata"]["name"]] for one in objects if one["kind"] == "Service"]

    def remember(self, state: str) -> None:
        """From now on, `refuse_other` refuses other clusters.

        Args:
            state: marks.UP or marks.DOWN. While it is up there, `restore` is refused here.
        """
        self.note.parent.mkdir(exist_ok=True)
        self.note.write_text(f"{self.identity} {state}")
