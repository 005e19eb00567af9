"""The rules by which the cluster refuses every Job but that of a run, as dagster.yaml describes it.

The gap: whoever may create Jobs in a namespace may mount every Secret of it, take every service
account and every label. The daemon creates the Job that a row of the runs table describes, and user
code can write such rows. On one machine the guard compares each container with dagster.yaml. Here
the API server does, by a ValidatingAdmissionPolicy from the same lines. Pod Security (`restricted`)
refuses what no pod of the namespace may have: rights on the node, its network, its folders.
"""

import json
from collections.abc import Mapping
from typing import Any

from control_plane.cluster.run_pods import (
    ACCOUNT,
    HAND_OVER_CODE,
    LOCATION_LABEL,
    NETWORK_LABEL,
    UNREACHABLE,
    Object,
    command,
    secrets_of,
)
from control_plane.guard.policy import COMMANDS, JOB_VARIABLE

IMAGES = "run-images"
# In an expression, the name of the code location stands for this one.
ANY_LOCATION = "LOCATION"
VARIABLES = {
    "pod": "object.spec.template.spec",
    "labels": "object.spec.template.metadata.labels",
    "container": "variables.pod.containers[0]",
    "location": f"variables.labels['{LOCATION_LABEL}']",
    "prefix": "variables.location.replace('_', '-')",
}
# Fields of a pod, and of its container, that the pod of a run does not have.
NOT_OF_PODS = (
    "initContainers", "ephemeralContainers", "hostAliases", "nodeName", "priorityClassName",
    "runtimeClassName", "imagePullSecrets", "resourceClaims", "dnsConfig", "overhead", "hostUsers",
)  # fmt: skip
NOT_OF_CONTAINERS = (
    "envFrom", "ports", "lifecycle", "livenessProbe", "readinessProbe", "startupProbe",
    "volumeDevices", "restartPolicy",
)  # fmt: skip
NAMESPACES = ("hostNetwork", "hostPID", "hostIPC")
IDS = {"runAsUser": "run_as_user", "runAsGroup": "run_as_group", "fsGroup": "fs_group"}


def objects(
    namespace: str, launcher: Mapping[str, Any], images: Mapping[str, list[str]]
) -> list[Object]:
    """The policy, its binding, and the images that it allows.

    Args:
        namespace: The namespace of the stack, and the prefix of what belongs to no namespace.
        launcher: `config` of KubernetesRunLauncher.
        images: What the runs of each code location may execute, by the service of its code server.
    """
    name, version = f"{namespace}-runs", "admissionregistration.k8s.io/v1"
    labels = {"app.kubernetes.io/part-of": namespace}
    policy = {
        "failurePolicy": "Fail",
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "matchConstraints": {
            "resourceRules": [{
                "apiGroups": ["batch"], "apiVersions": ["v1"], "resources": ["jobs"],
                "operations": ["CREATE", "UPDATE"],
            }],
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        },
        # Not those of administrators, such as the migration.
        "matchConditions": [{
            "name": "by-the-stack",
            "expression": "request.userInfo.username"
                          f".startsWith('system:serviceaccount:{namespace}:')",
        }],
        "variables": [{"name": n, "expression": e} for n, e in VARIABLES.items()],
        "validations": [
            {"expression": rule, "message": f"refused: {what} (dagster.yaml, run_launcher)"}
            for what, rule in rules(launcher).items()
        ],
    }  # fmt: skip
    binding = {
        "policyName": name,
        "validationActions": ["Deny"],
        "paramRef": {"name": IMAGES, "namespace": namespace, "parameterNotFoundAction": "Deny"},
    }
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": IMAGES, "namespace": namespace, "labels": labels},
            "data": {location: " ".join(refs) for location, refs in images.items()},
        },
        {
            "apiVersion": version,
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": name, "labels": labels},
            "spec": policy,
        },
        {
            "apiVersion": version,
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": name, "labels": labels},
            "spec": binding,
        },
    ]


def rules(launcher: Mapping[str, Any]) -> dict[str, str]:
    """What must hold for the Job of a run: expressions in CEL by what is refused otherwise.

    In this order: a later expression can rely on the earlier ones, since the API server reports
    an error of an expression as a refusal.
    """
    described: Mapping[str, Any] = launcher["run_k8s_config"]
    container: Mapping[str, Any] = described["container_config"]
    pod: Mapping[str, Any] = described["pod_spec_config"]
    most: Mapping[str, str] = container["resources"]["limits"]
    security: Mapping[str, Any] = pod["security_context"]
    labels: Mapping[str, str] = described["pod_template_spec_metadata"]["labels"]
    networks = [label for label in labels if label.startswith(NETWORK_LABEL)]
    kept = {n: v for n, v in labels.items() if n not in networks}
    mounts = [
        f"{one['name']} {one['mount_path']} {one.get('sub_path', '')}"
        for one in container["volume_mounts"]
    ]
    variables = [*launcher["env_vars"], JOB_VARIABLE]
    return {
        "a Job of more than one pod": (
            "object.spec.?parallelism.orValue(1) == 1 && object.spec.?completions.orValue(1) == 1"
            " && object.spec.?backoffLimit.orValue(6) == 0"
        ),
        "annotations, which controllers read": (
            "object.spec.template.metadata.?annotations.orValue({}).size() == 0"
        ),
        "a second start": "variables.pod.?restartPolicy.orValue('') == 'Never'",
        "more than one container": "variables.pod.containers.size() == 1",
        **{
            f"{name} of a pod": f"!has(variables.pod.{name}) || variables.pod.{name} == {empty}"
            for name, empty in ((n, _empty(n)) for n in NOT_OF_PODS)
        },
        **{
            f"{name} of a container": f"!has(variables.container.{name})"
            for name in NOT_OF_CONTAINERS
        },
        "a namespace of the node": " && ".join(
            f"!variables.pod.?{name}.orValue(false)" for name in NAMESPACES
        ),
        "labels that are not those of a run": (
            f"{_cel(kept)}.all(k, k in variables.labels &&"
            f" variables.labels[k] == {_cel(kept)}[k]) && variables.labels.all(k,"
            f" !k.startsWith('{NETWORK_LABEL}') || k in {_cel(networks)})"
        ),
        "no code location": f"'{LOCATION_LABEL}' in variables.labels",
        "an image that is not of its code location": (
            "variables.location in params.data &&"
            " variables.container.image in params.data[variables.location].split(' ')"
        ),
        "another command": (
            f"variables.container.?command.orValue([]) == {_cel(command(HAND_OVER_CODE))} &&"
            " variables.container.?args.orValue([]).size() == 4 &&"
            f" variables.container.args[0] + ' ' + variables.container.args[1] + ' ' +"
            f" variables.container.args[2] in {_cel([' '.join(one) for one in COMMANDS[:2]])}"
        ),
        "a variable that is not in env_vars": (
            f"variables.container.?env.orValue([]).all(e, e.name in {_cel(variables)}"
            " && !has(e.valueFrom))"
        ),
        "a service account": (
            f"variables.pod.serviceAccountName == {_cel(ACCOUNT)}"
            " && variables.pod.?automountServiceAccountToken.orValue(true) == false"
        ),
        "other rights": (
            "has(variables.container.securityContext) && has(variables.pod.securityContext)"
            " && !variables.container.securityContext.?privileged.orValue(false)"
            " && !variables.container.securityContext.?allowPrivilegeEscalation.orValue(true)"
            " && !has(variables.container.securityContext.procMount)"
            " && !has(variables.container.securityContext.seccompProfile)"
            " && variables.pod.securityContext.?seccompProfile.?type.orValue('') =="
            f" {_cel(security['seccomp_profile']['type'])}"
            " && variables.container.securityContext.?capabilities.?add.orValue([]).size() == 0"
            " && variables.container.securityContext.?capabilities.?drop.orValue([]) =="
            f" {_cel(container['security_context']['capabilities']['drop'])}"
            " && variables.container.securityContext.?readOnlyRootFilesystem.orValue(false) =="
            f" {_cel(container['security_context']['read_only_root_filesystem'])}"
            " && !has(variables.container.securityContext.runAsUser)"
            " && !has(variables.container.securityContext.runAsGroup)"
            " && !has(variables.pod.securityContext.supplementalGroups)"
            + "".join(
                f" && variables.pod.securityContext.?{field}.orValue(0) == {security[given]}"
                for field, given in IDS.items()
            )
        ),
        **{
            f"more {what} than {_shown(what, amount)}": (
                "has(variables.container.resources.limits)"
                f" && '{what}' in variables.container.resources.limits"
                f" && quantity(variables.container.resources.limits['{what}'])"
                f".compareTo(quantity('{amount}')) <= 0"
            )
            for what, amount in most.items()
        },
        "a volume that is not of runs": (
            f"variables.pod.?volumes.orValue([]).all(v, {_volumes(pod['volumes'])})"
        ),
        "another place of a volume": (
            "variables.container.?volumeMounts.orValue([]).all(m, !has(m.subPathExpr) &&"
            f" m.name + ' ' + m.mountPath + ' ' + m.?subPath.orValue('') in {_cel(mounts)})"
        ),
        "other tolerations": (
            f"variables.pod.?tolerations.orValue([]).all(t, t.?key.orValue('') in"
            f" {_cel(list(UNREACHABLE))})"
        ),
        "another scheduler": (
            "variables.pod.?schedulerName.orValue('default-scheduler') == 'default-scheduler'"
        ),
    }  # fmt: skip


def _volumes(described: list[Object]) -> str:
    """Whether `v` is one of them, or one of the code location's own."""
    known: list[str] = []
    for one in described:
        if "empty_dir" in one:
            known.append(f"(v.name == {_cel(one['name'])} && has(v.emptyDir))")
        else:
            secret = one["secret"]["secret_name"]
            known.append(_is_secret(one["name"], _cel(secret)))
    for name, secret in secrets_of(ANY_LOCATION).items():
        known.append(
            _is_secret(name, f"variables.prefix + {_cel(secret.removeprefix(ANY_LOCATION))}")
        )
    return " || ".join(known)


def _is_secret(volume: str, secret: str) -> str:
    return (
        f"(v.name == {_cel(volume)} && has(v.secret)"
        f" && v.secret.?secretName.orValue('') == {secret})"
    )


def _empty(name: str) -> str:
    return {"nodeName": "''", "priorityClassName": "''", "runtimeClassName": "''"}.get(name, "[]")


def _shown(what: str, amount: str) -> str:
    return f"{int(amount) >> 20} MiB" if what == "memory" else amount


def _cel(value: Any) -> str:  # noqa: ANN401 # any JSON
    """A value as CEL writes it: as JSON does, for strings without its escapes of slashes."""
    return json.dumps(value)
