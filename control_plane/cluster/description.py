"""What is known of a stack when its objects for a cluster are made."""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, cast

from control_plane.cluster.run_pods import Object, Refused
from control_plane.workspace import code_servers

NAME, PART_OF = "app.kubernetes.io/name", "app.kubernetes.io/part-of"
# What listens in each service, and on which of its networks: the arrows in docs/architecture.md.
CODE_PORT, EDGE_PORT = 4000, 8080
LISTENS: dict[str, dict[str, list[int]]] = {
    "edge": {"ui": [8082]},
    "sign_in": {"ui": [8000, 8001]},
    "webserver": {"ui": [3000]},
    "webserver_viewer": {"ui": [3000]},
    "postgres": {"db": [5432], "runs": [5432]},
}
# The cluster does what these do on one machine.
LEFT_OUT = {"guard", "prepare", "migrate", "cluster", "backup", "backup_store"}
# On one machine they reach the guard. Here they reach the API of the cluster, with these rights.
JOB = {"apiGroups": ["batch"], "resources": ["jobs"]}
LOOK = [
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
    {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
]
STOP = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["delete"]}]
RIGHTS: dict[str, list[Object]] = {
    "daemon": [{**JOB, "verbs": ["create", "get", "list", "delete"]}, *LOOK, *STOP],
    "webserver": [{**JOB, "verbs": ["get", "list", "delete"]}, *LOOK, *STOP],
}


@dataclass(frozen=True)
class Stack:
    """What the operator's command knows, and this program does not.

    Attributes:
        compose: What `docker compose config --format json` prints, with all parts that are on.
        images: By their names in Compose: `ref` on the cluster, `entrypoint`, `cmd` and `user`.
        addresses: The addresses of the Services by service. Empty before they are there.
        api: Where the API server listens: `ip` and `port`.
        earlier: The images that runs may still have, by code location.
    """

    compose: dict[str, Any]
    images: dict[str, dict[str, Any]]
    addresses: dict[str, str]
    api: list[dict[str, Any]]
    earlier: dict[str, list[str]]

    @property
    def name(self) -> str:
        """STACK_NAME, and the namespace."""
        return self.compose["name"]

    @property
    def settings(self) -> dict[str, str]:
        """The settings for clusters."""
        return self.compose["services"]["cluster"]["environment"]

    @property
    def max_runs(self) -> int:
        """The most runs at once."""
        return int(self.settings["CLUSTER_MAX_RUNS"])

    @property
    def cluster_networks(self) -> list[IPv4Network | IPv6Network]:
        """The networks of the cluster's pods and nodes, which are not outside.

        Raises:
            Refused: One of them is no network.
        """
        given = self.settings["CLUSTER_NETWORKS"].split()
        try:
            found = [ip_network(one) for one in given]
        except ValueError as error:
            raise Refused(f"CLUSTER_NETWORKS: {error}") from None
        if any(one.prefixlen == 0 for one in found):
            raise Refused("CLUSTER_NETWORKS: a network of all addresses leaves nothing outside")
        return found

    @property
    def services(self) -> dict[str, dict[str, Any]]:
        """Those that run on the cluster."""
        found: dict[str, dict[str, Any]] = self.compose["services"]
        return {
            name: service
            for name, service in found.items()
            if name not in LEFT_OUT and service.get("restart") != "no"
        }

    @property
    def locations(self) -> list[str]:
        """The services of the code locations that are on."""
        found = code_servers({"COMPOSE_PROFILES": self.settings.get("COMPOSE_PROFILES", "")})
        return [name for name in found if name in self.services]

    def listens(self, service: str) -> dict[str, list[int]]:
        """The ports of a service by network."""
        return {"code": [CODE_PORT]} if service in self.locations else LISTENS.get(service, {})

    def ref(self, image: str) -> str:
        """The name of an image on the cluster."""
        return self.images[image]["ref"]


def object_of(stack: Stack, kind: str, name: str, version: str = "v1", **fields: Any) -> Object:  # noqa: ANN401
    """An object of the stack, in its namespace and with its labels."""
    metadata = {"name": name, "namespace": stack.name, "labels": {PART_OF: stack.name, NAME: name}}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **fields}


def camel(value: Any) -> Any:  # noqa: ANN401 # any JSON
    """Names of fields as the API has them; dagster-k8s takes them in snake case."""
    if isinstance(value, Mapping):
        named = cast("Mapping[str, Any]", value)
        return {_camel(key): camel(one) for key, one in named.items()}
    if isinstance(value, list):
        listed = cast("list[Any]", value)
        return [camel(one) for one in listed]
    return value


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(one.capitalize() for one in others)
