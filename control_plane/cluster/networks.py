"""The networks of docker-compose.yml on a cluster: Services, network policies, and names.

A pod has one address for all its networks, so a policy names the port as well.
"""

from collections.abc import Iterable
from ipaddress import IPv4Network, ip_address
from typing import Any

from control_plane.cluster.description import (
    CODE_PORT,
    EDGE_PORT,
    NAME,
    RIGHTS,
    Stack,
    object_of,
)
from control_plane.cluster.run_pods import NETWORK_LABEL, Object, name_of

# Metadata of clouds, with keys of the machine.
LINK_LOCAL = "169.254.0.0/16"
CANDIDATE_LABEL = "dagster.stack/candidate"
# The DNS servers of the cluster: pods, and on some clusters a cache on each node. The cache has the
# same address on each of them.
DNS = {
    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
    "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
}
NODE_DNS = "169.254.20.10/32"


def services(stack: Stack) -> list[Object]:
    """The Services of what listens: an address that stays, whichever pod is behind it."""
    found: list[Object] = []
    for name in stack.services:
        ports = {port for listed in stack.listens(name).values() for port in listed}
        if name == "edge":
            ports.add(EDGE_PORT)
        found.append(object_of(stack, "Service", name_of(name), spec={
            "selector": {NAME: name_of(name)},
            "ports": [{"name": f"port-{port}", "port": port} for port in sorted(ports)],
        }))  # fmt: skip
    return [one for one in found if one["spec"]["ports"]]


def policies(stack: Stack) -> list[Object]:
    """Which pods may connect to which, as on one machine. All that no policy names is refused."""

    def policy(name: str, pods: Object, **rules: Any) -> Object:  # noqa: ANN401
        kinds = [kind.capitalize() for kind in rules] or ["Ingress", "Egress"]
        spec = {"podSelector": pods, "policyTypes": kinds, **rules}
        return object_of(stack, "NetworkPolicy", name, "networking.k8s.io/v1", spec=spec)

    def ports(numbers: Iterable[int], protocol: str = "TCP") -> list[Object]:
        return [{"port": number, "protocol": protocol} for number in numbers]

    def members(network: str) -> Object:
        return {"matchLabels": {f"{NETWORK_LABEL}{network}": ""}}

    api = [{"ipBlock": {"cidr": _block(one["ip"])}} for one in stack.api]
    names = {
        "to": [DNS, {"ipBlock": {"cidr": NODE_DNS}}],
        "ports": [*ports([53]), *ports([53], "UDP")],
    }
    found = [
        policy("nothing", {}),
        policy("names", {}, egress=[names]),
        policy(
            "published", {"matchLabels": {NAME: "edge"}}, ingress=[{"ports": ports([EDGE_PORT])}]
        ),
    ]
    for name in RIGHTS:
        rule = {"to": api, "ports": ports({int(one["port"]) for one in stack.api})}
        found.append(policy(f"{name}-to-api", {"matchLabels": {NAME: name}}, egress=[rule]))
    # `cluster-up` asks a code server that is not live yet what it defines.
    candidates = {"matchExpressions": [{"key": CANDIDATE_LABEL, "operator": "Exists"}]}
    asks = {"from": [{"podSelector": members("code")}], "ports": ports([CODE_PORT])}
    found.append(policy("to-candidates", candidates, ingress=[asks]))
    for service in stack.services:
        rules = [
            {"from": [{"podSelector": members(network)}], "ports": ports(numbers)}
            for network, numbers in stack.listens(service).items()
        ]
        if rules:
            pods = {"matchLabels": {NAME: name_of(service)}}
            found.append(policy(f"to-{name_of(service)}", pods, ingress=rules))
    networks: dict[str, dict[str, Any]] = stack.compose["networks"]
    # No rule allows an IPv6 address outside, so only IPv4 addresses need an exception.
    closed = [LINK_LOCAL, *map(_block, (one["ip"] for one in stack.api))]
    closed += [str(one) for one in stack.cluster_networks if isinstance(one, IPv4Network)]
    outside = {"cidr": "0.0.0.0/0", "except": [one for one in closed if ":" not in one]}
    for network, described in networks.items():
        to: list[Object] = [{"podSelector": members(network)}]
        if not described.get("internal"):
            to.append({"ipBlock": outside})
        found.append(policy(f"from-{network}", members(network), egress=[{"to": to}]))
    return found


def _block(address: str) -> str:
    """The block of one address."""
    return f"{address}/{ip_address(address).max_prefixlen}"


def hosts_file(stack: Stack) -> str:
    """The names that services have on one machine. Kubernetes' own names take no underscore."""
    lines = ["127.0.0.1 localhost"]
    for name, address in sorted(stack.addresses.items()):
        networks: dict[str, dict[str, Any] | None] = stack.services[name].get("networks") or {}
        aliases = [a for one in networks.values() for a in (one or {}).get("aliases", [])]
        lines.append(" ".join([address, name, *aliases]))
    return "".join(f"{line}\n" for line in lines)
