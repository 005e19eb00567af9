"""The stack on a Kubernetes cluster: its images, Secrets and objects, through kubectl."""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from cli import builds, store
from cli.errors import StackError
from cli.output import note
from cli.stack import Stack, docker

PROFILE = SERVICE = "cluster"
# Roles of the database, each with a Secret of its own (control_plane/postgres/roles.sql).
ROLES = ("owner", "control", "code", "viewer")
USERS = ("dagster", "viewer")
WAIT = "--timeout=300s"
# What a pod that does not start says of its containers.
WAITING = (
    "{range .items[*]}{.metadata.name}{' '}{.status.containerStatuses[*].state.waiting}{'\\n'}"
)
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
        if not shutil.which("kubectl", path=self.stack.environment.get("PATH")):
            raise StackError("kubectl is not installed: https://kubernetes.io/docs/tasks/tools/")
        context = self.settings["CLUSTER_CONTEXT"]
        command = ["kubectl", *([f"--context={context}"] if context else []), *arguments]
        done = subprocess.run(
            command, input=given, text=True, capture_output=True, check=False,
            env=self.stack.environment,
        )  # fmt: skip
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            raise StackError(f"kubectl {arguments[0]}: {said[-1]}")
        return done.stdout

    def get(self, *what: str) -> Any:  # noqa: ANN401 # any JSON
        """Objects of the namespace; None if there is none of that name."""
        words = ("get", *what, "--namespace", self.name, "--output=json", "--ignore-not-found")
        said = self.kubectl(*words)
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

    # --- Secrets

    def put_secrets(self) -> None:
        """Makes passwords, unless there are some, and hands over the operator's own files."""
        kept = self.get("secret", "postgres-credentials")
        if kept:
            text = base64.b64decode(kept["data"]["passwords.sql"]).decode()
            passwords = dict(re.findall(r"ROLE dagster_(\w+) PASSWORD '(.*)';", text))
        elif self.get("persistentvolumeclaim", "postgres-data-postgres-0"):
            raise StackError(
                "the database is there, and the Secret postgres-credentials with its passwords is"
                " gone: put it back (docs/how-to/move-to-a-cluster.md)"
            )
        else:
            passwords = {role: secrets.token_urlsafe(32) for role in ROLES}
        pgpass = {role: f"*:*:*:dagster_{role}:{passwords[role]}\n" for role in ROLES}
        files = {name: one["file"] for name, one in self.config["secrets"].items()}
        texts = {name: Path(file).read_text() for name, file in files.items() if file != os.devnull}
        of_store = {
            "store.ini": texts["store_config"],
            "store_authorities.pem": texts.get("ca_bundle", ""),
        }
        sql = "".join(f"ALTER ROLE dagster_{r} PASSWORD '{passwords[r]}';\n" for r in ROLES)
        self._put("postgres-credentials", {"passwords.sql": sql, "pgpass": pgpass["viewer"]})
        for role in ROLES:
            self._put(f"{role}-credentials", {"pgpass": pgpass[role], **of_store})
        if not self.get("secret", "sign-in-credentials"):
            self._put("sign-in-credentials", {user: secrets.token_urlsafe(32) for user in USERS})
        of_edge = ("ca_bundle", "tls_certificate", "tls_key")
        self._put("files", {name: texts[name] for name in of_edge if name in texts})
        for service, folder in self.stack.projects.items():
            env = folder / ".env"
            given = {".env": env.read_text()} if env.is_file() else {}
            self._put(f"{service.replace('_', '-')}-settings", given)

    def _put(self, name: str, texts: Mapping[str, str]) -> None:
        metadata = {"name": name, "namespace": self.name, "labels": {PART_OF: self.name}}
        encoded = {key: base64.b64encode(one.encode()).decode() for key, one in texts.items()}
        self.apply([{"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": encoded}])

    # --- what is there

    def wait(self, objects: Sequence[Mapping[str, Any]]) -> None:
        """Waits until each of some objects works; raises StackError with the reason if not."""
        for one in objects:
            kind, name = one["kind"].lower(), one["metadata"]["name"]
            namespace = f"--namespace={self.name}"
            try:
                if kind == "job":
                    self.kubectl("wait", "--for=condition=complete", WAIT, f"job/{name}", namespace)
                else:
                    self.kubectl("rollout", "status", WAIT, f"{kind}/{name}", namespace)
            except StackError as error:
                raise StackError(f"{name}: {self.reason(name) or error}") from None

    def reason(self, name: str) -> str:
        """Why a pod of a service does not start, or what it printed last."""
        pods = [one for one in self.get("pods")["items"] if _name_of(one).endswith(name)]
        for pod in reversed(pods):
            for status in pod["status"].get("containerStatuses", []):
                waiting: dict[str, str] = status["state"].get("waiting") or {}
                if waiting.get("reason") not in (None, "ContainerCreating", "CrashLoopBackOff"):
                    return f"{waiting['reason']}: {waiting.get('message', '')}"
                logs = self.kubectl("logs", pod["metadata"]["name"], "--tail=1",
                    f"--namespace={self.name}")  # fmt: skip
                if logs.strip():
                    return logs.strip()
            for condition in pod["status"].get("conditions", []):
                if condition["type"] == "PodScheduled" and condition["status"] != "True":
                    return condition.get("message", "")
        return ""


def _name_of(pod: Mapping[str, Any]) -> str:
    return pod["metadata"]["labels"].get("app.kubernetes.io/name", "")
