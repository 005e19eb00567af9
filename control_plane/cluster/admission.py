"""The rules by which the cluster refuses every Job but that of a run, as dagster.yaml describes it.

The gap: whoever may create Jobs in a namespace may mount every Secret of it, take every service
account and every label. The daemon creates the Job that a row of the runs table describes, and user
code can write such rows. On one machine the guard compares each container with dagster.yaml. Here
the API server does, by a ValidatingAdmissionPolicy from the same lines. Pod Security (`restricted`)
refuses what no pod of the namespace may have: rights on the node, its network, its folders.
"""

import json
from collections.abc import Mapping
from typing import Any, cast

from control_plane.cluster.description import NAME, PART_OF, camel
from control_plane.cluster.run_pods import (
    ACCOUNT,
    LOCATION_LABEL,
    RUN,
    Object,
    volumes_of,
)
from control_plane.guard.policy import COMMANDS, JOB_VARIABLE

IMAGES = "run-images"
VERSION = "admissionregistration.k8s.io/v1"
# In an expression, the name of the code location stands for this one.
ANY_LOCATION = "LOCATION"
VARIABLES = {
    "template": "object.spec.template.metadata",
    "pod": "object.spec.template.spec",
    "labels": "object.spec.template.metadata.labels",
    "container": "variables.pod.containers[0]",
    "location": f"variables.labels['{LOCATION_LABEL}']",
    "prefix": "variables.location.replace('_', '-')",
}
# All fields that the Job of a run has, by the object that has them: what dagster-k8s sets, and what
# Kubernetes fills in before this policy sees the Job. A field that a later version of Kubernetes
# adds and fills in is refused by its name.
FIELDS = {
    "Job's metadata": ("object.metadata", (
        "name", "namespace", "labels",
        "uid", "creationTimestamp", "generation", "managedFields",
    )),
    "Job's spec": ("object.spec", (
        "template", "backoffLimit", "ttlSecondsAfterFinished",
        "parallelism", "completions", "completionMode", "suspend", "selector",
        "manualSelector", "podReplacementPolicy",
    )),
    "pod's metadata": ("variables.template", ("name", "labels", "creationTimestamp")),
    "pod": ("variables.pod", (
        "containers", "volumes", "affinity", "nodeSelector", "automountServiceAccountToken",
        "enableServiceLinks", "restartPolicy", "securityContext", "serviceAccountName",
        "serviceAccount", "shareProcessNamespace", "terminationGracePeriodSeconds", "tolerations",
        "dnsPolicy", "schedulerName",
    )),
    # podAffinity and podAntiAffinity of a run would keep other pods from its node.
    "pod's affinity": ("variables.pod.?affinity.orValue({})", ("nodeAffinity",)),
    "container": ("variables.container", (
        "args", "command", "env", "image", "imagePullPolicy", "name", "resources",
        "securityContext", "volumeMounts",
        "terminationMessagePath", "terminationMessagePolicy",
    )),
    "container's resources": (
        "variables.container.?resources.orValue({})", ("limits", "requests"),
    ),
    "container's limits": (
        "variables.container.?resources.?limits.orValue({})", ("cpu", "memory"),
    ),
    "container's requests": (
        "variables.container.?resources.?requests.orValue({})", ("cpu", "memory"),
    ),
}  # fmt: skip
JOB, POD, CONTAINER = "Job", "pod", "container"
AT = {JOB: "object.spec", POD: "variables.pod", CONTAINER: "variables.container"}
# What Kubernetes fills in.
DEFAULTS = {
    JOB: {
        "parallelism": 1, "completions": 1, "completionMode": "NonIndexed", "suspend": False,
        "manualSelector": False, "podReplacementPolicy": "TerminatingOrFailed",
    },
    POD: {"dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler"},
    CONTAINER: {
        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
    },
}  # fmt: skip
# Labels from dagster-k8s and from the Job controller.
LABELS = (
    "app.kubernetes.io/component", "app.kubernetes.io/instance", "app.kubernetes.io/version",
    "dagster/code-location", "dagster/job", "dagster/run-id",
    "controller-uid", "job-name", "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-name",
)  # fmt: skip


def objects(
    namespace: str, launcher: Mapping[str, Any], images: Mapping[str, list[str]]
) -> list[Object]:
    """The policies, their bindings, and the images that they allow.

    Args:
        namespace: The namespace of the stack, and the prefix of what belongs to no namespace.
        launcher: `config` of KubernetesRunLauncher.
        images: What the runs of each code location may execute, by the service of its code server.
    """
    jobs = [{
        "apiGroups": ["batch"], "apiVersions": ["v1"], "resources": ["jobs"],
        "operations": ["CREATE", "UPDATE"],
    }]  # fmt: skip
    ends = [
        {"apiGroups": [group], "apiVersions": ["v1"], "resources": [of], "operations": ["DELETE"]}
        for group, of in (("batch", "jobs"), ("", "pods"))
    ]
    of_run = f"oldObject.metadata.?labels[?'{NAME}'].orValue('') == '{RUN}'"
    said = "refused: only runs are deleted by an account of the stack"
    parameters = {"name": IMAGES, "namespace": namespace, "parameterNotFoundAction": "Deny"}
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": IMAGES, "namespace": namespace, "labels": {PART_OF: namespace}},
            "data": {location: " ".join(refs) for location, refs in images.items()},
        },
        *_policy(
            namespace, "runs", jobs, [*_only_fields(), *_rules(launcher)],
            variables=[{"name": n, "expression": e} for n, e in VARIABLES.items()],
            paramKind={"apiVersion": "v1", "kind": "ConfigMap"},
            parameters=parameters,
        ),
        *_policy(namespace, "deletions", ends, [{"expression": of_run, "message": said}]),
    ]  # fmt: skip


def _policy(
    namespace: str,
    name: str,
    matched: list[Object],
    validations: list[Object],
    parameters: Object | None = None,
    **more: Any,  # noqa: ANN401 # any JSON
) -> list[Object]:
    """A policy for requests of the stack's accounts in its namespace, and its binding."""
    full = f"{namespace}-{name}"
    metadata = {"name": full, "labels": {PART_OF: namespace}}
    policy = {
        "failurePolicy": "Fail",
        "matchConstraints": {
            "resourceRules": matched,
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        },
        # Not those of administrators, such as the migration.
        "matchConditions": [{
            "name": "by-the-stack",
            "expression": "request.userInfo.username"
                          f".startsWith('system:serviceaccount:{namespace}:')",
        }],
        "validations": validations,
        **more,
    }  # fmt: skip
    binding: Object = {"policyName": full, "validationActions": ["Deny"]}
    if parameters:
        binding["paramRef"] = parameters
    kind = "ValidatingAdmissionPolicy"
    return [
        {"apiVersion": VERSION, "kind": kind, "metadata": metadata, "spec": policy},
        {"apiVersion": VERSION, "kind": f"{kind}Binding", "metadata": metadata, "spec": binding},
    ]


def _only_fields() -> list[Object]:
    """Refuses fields that are not in FIELDS, and names them.

    To an expression, an object is a map of the fields that are set. `dyn` tells the API server's
    check of types to take it for one.
    """
    found: list[Object] = []
    for what, (of, names) in FIELDS.items():
        known, said = json.dumps(names), f"refused: no run has these fields of the {what}: "
        unknown = f"dyn({of}).filter(k, !(k in {known})).map(k, string(k)).join(', ')"
        found.append({
            "expression": f"dyn({of}).all(k, k in {known})",
            "message": f"{said}?",
            "messageExpression": f"{json.dumps(said)} + {unknown}",
        })  # fmt: skip
    return found


def _rules(launcher: Mapping[str, Any]) -> list[Object]:
    return [
        {"expression": rule, "message": f"refused: {what} (dagster.yaml, run_launcher)"}
        for what, rule in rules(launcher).items()
    ]


def rules(launcher: Mapping[str, Any]) -> dict[str, str]:
    """What must hold for the fields of a run's Job: CEL expressions by what is refused otherwise.

    In this order: a later expression can rely on the earlier ones, since the API server reports
    an error of an expression as a refusal.
    """
    described: Mapping[str, Any] = launcher["run_k8s_config"]
    container: Mapping[str, Any] = camel(described["container_config"])
    pod: Mapping[str, Any] = camel(described["pod_spec_config"])
    job: Mapping[str, Any] = camel(described["job_spec_config"])
    most: Mapping[str, str] = container["resources"]["limits"]
    variables = [*launcher["env_vars"], JOB_VARIABLE]
    exact = {
        JOB: {"backoffLimit": job["backoffLimit"]},
        POD: {
            "restartPolicy": "Never",
            "serviceAccountName": ACCOUNT,
            **{name: one for name, one in pod.items() if name not in ("volumes", "tolerations")},
        },
        CONTAINER: {
            "name": "dagster",
            "imagePullPolicy": launcher["image_pull_policy"],
            **{name: container[name] for name in ("command", "securityContext")},
        },
    }
    return {
        "more than one container": "variables.pod.containers.size() == 1",
        **{
            f"another {name} of the {of}":
                f"has({AT[of]}.{name}) && {AT[of]}.{name} == {_cel(value)}"
            for of, values in exact.items()
            for name, value in values.items()
        },
        **{
            f"another {name} of the {of}":
                f"!has({AT[of]}.{name}) || {AT[of]}.{name} == {_cel(value)}"
            for of, values in DEFAULTS.items()
            for name, value in values.items()
        },
        "a Job that stays longer": (
            "object.spec.?ttlSecondsAfterFinished.hasValue() &&"
            f" object.spec.ttlSecondsAfterFinished <= {job['ttlSecondsAfterFinished']}"
        ),
        "labels of the Job that are not those of a run": _labels(
            "object.metadata.?labels.orValue({})", described["job_metadata"]["labels"]
        ),
        "labels that are not those of a run": _labels(
            "variables.template.?labels.orValue({})",
            described["pod_template_spec_metadata"]["labels"],
        ),
        "an image that is not of its code location": (
            "variables.location in params.data &&"
            " variables.container.image in params.data[variables.location].split(' ')"
        ),
        "other arguments": (
            "variables.container.?args.orValue([]).size() == 4 &&"
            f" variables.container.args[0] + ' ' + variables.container.args[1] + ' ' +"
            f" variables.container.args[2] in {json.dumps([' '.join(c) for c in COMMANDS[:2]])}"
        ),
        "a variable that is not in env_vars": (
            f"variables.container.?env.orValue([]).all(e, e.name in {json.dumps(variables)}"
            " && dyn(e).all(k, k in ['name', 'value']))"
        ),
        **{
            f"more {what} than {_shown(what, amount)}": (
                f"variables.container.?resources.?limits[?'{what}'].hasValue()"
                f" && quantity(variables.container.resources.limits['{what}'])"
                f".compareTo(quantity('{amount}')) <= 0"
            )
            for what, amount in most.items()
        },
        "a volume that is not of runs": (
            f"variables.pod.?volumes.orValue([]).all(v, {_volumes(pod['volumes'])})"
        ),
        "another place of a volume": (
            "variables.container.?volumeMounts.orValue([]).all(m,"
            f" dyn(m) in {_cel(container['volumeMounts'])})"
        ),
        "other tolerations": (
            f"variables.pod.?tolerations.orValue([]).all(t, dyn(t) in {_cel(pod['tolerations'])})"
        ),
    }  # fmt: skip


def _labels(of: str, described: Mapping[str, str]) -> str:
    """Whether labels are the described ones, the code location's, and those of LABELS."""
    given = json.dumps(described)
    keys = json.dumps([*described, LOCATION_LABEL, *LABELS])
    return (
        f"{given}.all(k, k in {of} && {of}[k] == {given}[k]) && {of}.all(k, k in {keys})"
        f" && '{LOCATION_LABEL}' in {of}"
    )


def _volumes(described: list[Object]) -> str:
    """Whether `v` is one of them, or one of the code location's own."""
    own: list[Object] = camel(volumes_of(ANY_LOCATION))
    return " || ".join(_volume(one) for one in [*described, *own])


def _volume(described: Object) -> str:
    """Whether `v` is the described volume. Its size may have another unit."""
    folder = cast("Object", described.get("emptyDir", {}))
    if "sizeLimit" not in folder:
        return f"dyn(v) == {_cel(described)}"
    kept = _cel({n: one for n, one in folder.items() if n != "sizeLimit"})
    size = json.dumps(folder["sizeLimit"])
    return (
        f"(dyn(v).all(k, k in ['name', 'emptyDir']) && v.name == {_cel(described['name'])}"
        " && v.?emptyDir.?sizeLimit.hasValue()"
        f" && quantity(v.emptyDir.sizeLimit).compareTo(quantity({size})) == 0"
        f" && dyn(v.emptyDir).all(k, k == 'sizeLimit' || k in {kept} && v.emptyDir[k] == {kept}[k])"
        f" && {kept}.all(k, k in v.emptyDir))"
    )


def _shown(what: str, amount: str) -> str:
    return f"{int(amount) >> 20} MiB" if what == "memory" else amount


def _cel(value: Any) -> str:  # noqa: ANN401 # any JSON
    """A value as CEL writes it, with ANY_LOCATION as the name of the code location.

    As JSON does, but the values of an object must have one type there: `dyn` hides their own.
    """
    if isinstance(value, dict):
        named = cast("dict[str, Any]", value)
        return f"{{{', '.join(f'{json.dumps(k)}: dyn({_cel(one)})' for k, one in named.items())}}}"
    if isinstance(value, list):
        listed = cast("list[Any]", value)
        return f"[{', '.join(f'dyn({_cel(one)})' for one in listed)}]"
    if isinstance(value, str) and value.startswith(ANY_LOCATION):
        return f"variables.prefix + {json.dumps(value.removeprefix(ANY_LOCATION))}"
    return json.dumps(value)
