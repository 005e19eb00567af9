"""The client of Kubernetes, for one namespace."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from cli import piped
from cli.errors import StackError


class Kubectl:
    """Runs kubectl, with the context of CLUSTER_CONTEXT."""

    def __init__(self, namespace: str, context: str, environment: Mapping[str, str]) -> None:
        """Asks the cluster nothing yet."""
        self.name, self.context, self.environment = namespace, context, environment

    def kubectl(self, *arguments: str, given: str | None = None) -> str:
        """Runs kubectl for the cluster; returns what it printed.

        Raises:
            StackError: It is not installed, or refuses.
        """
        done = subprocess.run(
            self.command(*arguments), input=given, text=True, capture_output=True, check=False,
            env=self.environment,
        )  # fmt: skip
        if done.returncode:
            reason = piped.last_line(done.stderr.encode())
            raise StackError(f"kubectl {arguments[0]}: {reason}")
        return done.stdout

    def command(self, *arguments: str) -> list[str]:
        """The command line of kubectl; raises StackError if it is not installed."""
        if not shutil.which("kubectl", path=self.environment.get("PATH")):
            raise StackError("kubectl is not installed: https://kubernetes.io/docs/tasks/tools/")
        chosen = [f"--context={self.context}"] if self.context else []
        return ["kubectl", *chosen, f"--namespace={self.name}", *arguments]

    @property
    def server(self) -> str:
        """The address of the API server."""
        path = "{.clusters[0].cluster.server}"
        return self.kubectl("config", "view", "--minify", f"--output=jsonpath={path}")

    @cached_property
    def identity(self) -> str:
        """What no other cluster has."""
        found: dict[str, Any] = self.get("namespace", "kube-system")
        return found["metadata"]["uid"]

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

    def items(self, *what: str) -> list[dict[str, Any]]:
        """All objects of a kind. Of none, kubectl prints no empty list with --ignore-not-found."""
        found: dict[str, Any] = self.get(*what) or {}
        return found.get("items") or []

    def apply(self, objects: Sequence[Mapping[str, Any]]) -> None:
        """Creates or changes objects; raises StackError with the one that is refused."""
        listed = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        words = ("--server-side", "--force-conflicts", "--field-manager=stack", "--filename=-")
        self.kubectl("apply", *words, given=json.dumps(listed))
