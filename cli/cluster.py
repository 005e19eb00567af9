"""The stack on a Kubernetes cluster: its images, Secrets and objects, through kubectl."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from cli import builds, piped, store
from cli.cluster_client import PodClient
from cli.errors import StackError
from cli.output import note
from cli.stack import Stack, docker

PROFILE = SERVICE = "cluster"
PART_OF = "app.kubernetes.io/part-of"


class Cluster:
    """One namespace, named like the stack."""

    def __init__(self, stack: Stack) -> None:
        """Asks the cluster nothing yet.

        Raises:
            StackError: A setting is refused.
        """
        profiles = stack.config["services"]["webserver"]["environment"]["COMPOSE_PROFILES"]
        active = ",".join(filter(None, [profiles, PROFILE]))
        self.stack = Stack(stack.root, {**stack.environment, "COMPOSE_PROFILES": active})
        self.stack.client = PodClient(self.execute)
        self.config = self.stack.config
        self.name = stack.name
        self.settings: dict[str, str] = self.config["services"][SERVICE]["environment"]
        if not re.fullmatch(r"[a-z0-9-]+", self.name):
            raise StackError(f"STACK_NAME={self.name}: a namespace takes only a-z, 0-9 and -")
        if not store.is_used(stack):
            raise StackError("a cluster needs STORE=s3: nodes share no volumes")
        store.refuse_wrong(stack)

    # --- kubectl

    def kubectl(self, *arguments: str, given: str | None = None) -> str:
        """Runs kubectl for the cluster; returns what it printed.

        Raises:
            StackError: It is not installed, or refuses.
        """
        done = subprocess.run(
            self.command(*arguments), input=given, text=True, capture_output=True, check=False,
            env=self.stack.environment,
        )  # fmt: skip
        if done.returncode:
            reason = piped.last_line(done.stderr.encode())
            raise StackError(f"kubectl {arguments[0]}: {reason}")
        return done.stdout

    def command(self, *arguments: str) -> list[str]:
        """The command line of kubectl; raises StackError if it is not installed."""
        if not shutil.which("kubectl", path=self.stack.environment.get("PATH")):
            raise StackError("kubectl is not installed: https://kubernetes.io/docs/tasks/tools/")
        context = self.settings["CLUSTER_CONTEXT"]
        chosen = [f"--context={context}"] if context else []
        return ["kubectl", *chosen, f"--namespace={self.name}", *arguments]

    def execute(self, where: str, *words: str, given: str | None = None) -> str:
        """Runs a program in a pod, such as deployment/webserver; returns what it printed."""
        return self.kubectl("exec", "--stdin", where, "--", *words, given=given)

    def secret(self, name: str) -> dict[str, bytes]:
        """What is in a Secret; nothing if there is none of that name."""
        found: dict[str, Any] = self.get("secret", name) or {}
        kept: dict[str, str] = found.get("data") or {}
        return {key: base64.b64decode(one) for key, one in kept.items()}

    def get(self, *what: str) -> Any:  # noqa: ANN401 # any JSON
        """Objects of the namespace; None if there is none of that name."""
        said = self.kubectl("get", *what, "--output=json", "--ignore-not-found")
        return json.loads(said) if said.strip() else None

    def apply(self, objects: Sequence[Mapping[str, Any]]) -> None:
        """Creates or changes objects; raises StackError with the one that is refused."""
        listed = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        words = ("--server-side", "--force-conflicts", "--field-manager=stack", "--filename=-")
        self.kubectl("apply", *words, given=json.dumps(listed))

    # --- images

    @cached_property
    def built(self) -> list[str]:
        """The images that the cluster needs, by their names in Compose."""
        services: dict[str, dict[str, Any]] = self.config["services"]
        # There, the image of SERVICE is that of web server and daemon.
        left_out = {services[name]["image"] for name in ("guard", "daemon")}
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
                of = f"{registry}/{name}@"
                ref = next(one for one in pushed["RepoDigests"] if one.startswith(of))
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
            "earlier": {name: refs.split()[:5] for name, refs in earlier.items()},
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
                 self.get("services")["items"]}  # fmt: skip
        known = {name.replace("_", "-"): name for name in self.config["services"]}
        names = [one["metadata"]["name"] for one in services if one["kind"] == "Service"]
        return {known[name]: there[name] for name in names}
