"""The stack on a real Kubernetes cluster of three nodes, from the same images and files."""

import base64
import copy
import json
import os
import re
import signal
import subprocess
from dataclasses import dataclass

import pytest
import yaml

from support import ROOT
from support.cli import COMMAND, FINAL, docker
from support.harness import wait_until
from support.kubernetes import Cluster

pytestmark = pytest.mark.cluster

# Services are on node0 and node1, so that node2 can be lost.
LOST = "node2"
ONE_OP = "talk"
NAME = "app.kubernetes.io/name"
SECRET_VALUE = "from one machine"
PARTS = "webserver", "daemon", "code-location", "edge", "sign-in", "postgres"
JOBS = """{ repositoriesOrError { ... on RepositoryConnection { nodes { jobs { name } } } } }"""
# In the image of the web server: which addresses answer.
CONNECTS = """
import socket, sys
for where in sys.argv[1:]:
    host, port = where.split(":")
    try:
        socket.create_connection((host, int(port)), 3).close()
        print(where)
    except OSError:
        pass
"""


@dataclass(frozen=True)
class Before:
    """What the stack had on one machine.

    Attributes:
        run: A run that has ended.
        queued: A run that waited in the queue.
        password: The operator's.
        file: Its last backup.
    """

    run: str
    queued: str
    password: str
    file: str


@pytest.fixture(scope="module")
def before():
    """Filled by `cluster`."""
    return []


@pytest.fixture(scope="module")
def cluster(stacks, before):
    stack = stacks.make("cluster", extra_definitions=True)
    stack.name_on_cluster = stack.registered
    file = stack.root / "dagster.yaml"
    instance = yaml.safe_load(file.read_text())
    # What cannot be placed fails sooner.
    instance["run_monitoring"]["start_timeout_seconds"] = 40
    file.write_text(yaml.safe_dump(instance))
    passphrase = stack.root / "passphrase"
    passphrase.write_text("correct horse\n")
    settings = [f"BACKUP_PASSPHRASE={passphrase}"]
    (stack.root / ".env").write_text("\n".join(settings))
    done = stack.verb("up")
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    run, password = stack.run(ONE_OP), stack.password
    done = subprocess.run(
        [*COMMAND, "secret", "token"], cwd=stack.root, env=stack.environment, input=SECRET_VALUE,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    stack.compose("stop", "daemon")
    queued = stack.launch(ONE_OP)
    done = stack.verb("backup", "--last")
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    (file,) = map(str, (stack.root / "backups").iterdir())
    before.append(Before(run, queued, password, file))
    made = Cluster(stack)
    stack.diagnosis = made.diagnosis
    try:
        config = stack.root / "store.ini"
        config.write_text(made.start_store())
        settings += ["STORE=s3", f"STORE_CONFIG={config}", "CLUSTER_DATABASE_SIZE=1Gi"]
        (stack.root / ".env").write_text("\n".join(settings))
        made.import_stack()
        made.kubectl("cordon", LOST)
        done = stack.verb("cluster-up")
        assert "this machine has a history: ./stack backup --last" in done.stderr, done.stderr
        done = stack.verb("cluster-up", "--restore", file)
        assert "are in the backup and not in the bucket" in done.stderr, done.stderr
        made.up("--restore", file, "--anyway")
        made.kubectl("uncordon", LOST)
        made.sign_in()
        made.forward()
        wait_until(lambda: answers(stack), "the web UI")
        yield made
    finally:
        made.remove()
        stacks.remove(stack)


def answers(stack):
    try:
        return stack.graphql("{ version }")
    except Exception:  # not yet
        return None


def up_again(cluster, *flags):
    """Puts the stack as it is now on the cluster; returns what was printed."""
    said = cluster.up(*flags)
    reach(cluster)
    return said


def pod_of(cluster, run_id):
    words = ("get", "pods", f"--namespace={cluster.name}", "--output=json")
    listed = cluster.kubectl(*words, f"--selector=dagster/run-id={run_id}")
    return next(iter(json.loads(listed)["items"]), None)


def ended(cluster, run_id, seconds=180):
    """The status of a run that has ended; with the reason if it was no success."""
    status = cluster.stack.finished(run_id, seconds)
    return status if status == "SUCCESS" else f"{status}: {cluster.stack.said_of(run_id)}"


def on_node(name):
    """A tag that has a run executed on one node."""
    selector = {"node_selector": {"kubernetes.io/hostname": name}}
    return {"dagster-k8s/config": json.dumps({"pod_spec_config": selector})}


def reach(cluster):
    """Makes the web UI answer here again: the way to the edge ended with its pod."""
    cluster.forward()
    wait_until(lambda: answers(cluster.stack), "the web UI")


def move(cluster, node, *names):
    """Has parts of the stack on one node."""
    others = {"node0", "node1", "node2"} - {node}
    cluster.kubectl("cordon", *others)
    for name in names:
        cluster.kubectl("delete", "pod", *cluster.own, f"--selector={NAME}={name}")
        part = f"{'statefulset' if name == 'postgres' else 'deployment'}/{name}"
        cluster.kubectl("rollout", "status", *cluster.own, part, "--timeout=180s")
    cluster.kubectl("uncordon", *others)
    reach(cluster)
    assert all(where(cluster, name) == [node] for name in names)


def where(cluster, name):
    """The nodes of a part's pods that are ready, and are not to end."""
    words = "get", "pods", *cluster.own, f"--selector={NAME}={name}", "--output=json"
    nodes = []
    for pod in json.loads(cluster.kubectl(*words))["items"]:
        is_true = {one["type"] for one in pod["status"]["conditions"] if one["status"] == "True"}
        if "Ready" in is_true and "deletionTimestamp" not in pod["metadata"]:
            nodes.append(pod["spec"]["nodeName"])
    return nodes


@pytest.mark.short
def test_the_stack_is_healthy_and_status_says_where_each_part_is(cluster):
    done = cluster.stack.verb("cluster-status")
    assert done.returncode == 0, f"{done.stdout}{done.stderr}{cluster.diagnosis()}"
    assert re.search(r"^webserver +2/2 +node0, node1$", done.stdout, re.MULTILINE)
    assert done.stdout.rstrip().endswith("All well.")


@pytest.mark.short
def test_history_passwords_and_secrets_came_from_one_machine_which_starts_the_stack_no_more(
    cluster, before
):
    stack, (there,) = cluster.stack, before
    assert stack.status_of(there.run) == "SUCCESS"
    assert ended(cluster, there.queued) == "SUCCESS"
    assert stack.password == there.password
    where = "deployment/code-location", "--", "cat", "/run/dagster-settings/secrets/token"
    assert cluster.kubectl("exec", f"--namespace={cluster.name}", *where) == SECRET_VALUE
    # The way to the edge has its port.
    done = stack.verb("up", HTTP_PORT=str(stack.lease.port + 500))
    assert done.returncode == 1
    assert "this stack has moved to a cluster" in done.stderr, done.stderr
    states = stack.services()
    running = {name for name, one in states.items() if one["State"] == "running"}
    assert not {"daemon", "postgres"} & running
    stack.verb("down")
    done = stack.verb("cluster-up", "--restore", there.file)
    assert "the stack on the cluster has a history of its own" in done.stderr, done.stderr
    # Two daemons would do the same work.
    done = stack.verb("restore", there.file, "--replace")
    assert "is up on a cluster: first ./stack cluster-backup --last" in done.stderr, done.stderr


def test_a_secret_for_code_is_set_as_the_docs_say(cluster):
    page = (ROOT / "docs/how-to/move-to-a-cluster.md").read_text()
    (words,) = re.findall(r"(?m)^    (printf .*\\\n.*)$", page)
    file = cluster.stack.root / "secret"
    file.write_text("two\nlines\n")
    for name, value in (("NAME", "other"), ("FILE", str(file)), ("=dagster", f"={cluster.name}")):
        assert name in words
        words = words.replace(name, value)
    subprocess.run(["sh", "-c", words], env=cluster.stack.environment, check=True)
    secret = "get", "secret", "code-location-secrets", *cluster.own, "--output=json"
    data = json.loads(cluster.kubectl(*secret))["data"]
    assert set(data) == {"token", "other"}
    assert base64.b64decode(data["other"]) == file.read_bytes()


def test_a_last_backup_that_is_interrupted_leaves_the_stack_up(cluster):
    stack = cluster.stack
    run = stack.launch("hang")
    wait_until(lambda: stack.status_of(run) == "STARTED", "the start")
    said = stack.root / "last.log"
    with said.open("w") as log, subprocess.Popen(
        [*COMMAND, "cluster-backup", "--last"], cwd=stack.root, env=stack.environment,
        stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
    ) as going:  # fmt: skip
        wait_until(lambda: "waiting for 1 runs" in said.read_text(), "it to wait", 120)
        done = stack.verb("cluster-up")
        assert "another cluster-up" in done.stderr, done.stderr
        os.killpg(going.pid, signal.SIGINT)
        assert going.wait(120) != 0
    assert "starting again what was stopped" in said.read_text()
    wait_until(lambda: where(cluster, "daemon"), "the daemon", 180)
    assert stack.status_of(run) == "STARTED"
    stack.terminate(run)
    assert stack.finished(run) == "CANCELED"


def test_a_backup_of_the_cluster_is_that_of_a_stack(cluster):
    stack = cluster.stack
    done = stack.verb("cluster-backup", "--to", "from-cluster")
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    (file,) = (stack.root / "from-cluster").iterdir()
    done = stack.verb("backup-verify", str(file))
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"


@pytest.mark.short
def test_the_demonstration_jobs_run_and_their_outputs_and_logs_outlive_their_pods(cluster):
    stack = cluster.stack
    runs = {job: stack.launch(job) for job in ("process_numbers", "process_numbers_asset")}
    assert {job: ended(cluster, run) for job, run in runs.items()} == dict.fromkeys(runs, "SUCCESS")
    said = stack.run(ONE_OP, seconds=180)
    pod = pod_of(cluster, said)
    # The image of the code server, by the same name.
    path = "--output=jsonpath={.spec.template.spec.containers[0].image}"
    server = cluster.kubectl("get", "deployment/code-location", f"--namespace={cluster.name}", path)
    assert pod["spec"]["containers"][0]["image"] == server
    assert stack.tags_of(said)["dagster/image"] == server
    cluster.kubectl(
        "delete", "jobs", f"--namespace={cluster.name}", f"job-name={said}", check=False
    )
    cluster.kubectl("delete", "pod", pod["metadata"]["name"], f"--namespace={cluster.name}")
    assert "".join(stack.captured(said)).strip()
    kept = docker("exec", f"{cluster.name}-store", "find", "/data/kept/here/outputs", "-type", "f")
    assert "/summed_even_numbers" in kept
    assert runs["process_numbers"] in kept


def test_runs_are_spread_over_the_nodes_and_all_end(cluster):
    runs = [cluster.stack.launch(ONE_OP) for _ in range(12)]
    assert {ended(cluster, run, 400) for run in runs} == {"SUCCESS"}
    nodes = {pod_of(cluster, run)["spec"]["nodeName"] for run in runs}
    assert len(nodes) > 1, nodes


def test_a_run_that_has_no_place_fails_with_the_scheduler_s_reason_and_starts_never(cluster):
    stack = cluster.stack
    run = stack.launch(ONE_OP, tags={**on_node("nowhere"), "dagster/max_retries": "0"})
    assert stack.finished(run, 180) == "FAILURE"
    said = stack.said_of(run)
    assert "No node takes the pod: 0/3 nodes are available" in said, said
    wait_until(lambda: pod_of(cluster, run) is None, "the pod to be gone")


def test_a_job_with_small_limits_of_its_own_gets_them(cluster):
    run = cluster.stack.run("small", seconds=180)
    (container,) = pod_of(cluster, run)["spec"]["containers"]
    assert container["resources"]["limits"] == {"cpu": "500m", "memory": str(2**29)}
    assert container["resources"]["requests"] == {"cpu": "125m", "memory": str(2**28)}


def test_a_run_that_needs_too_much_memory_says_so(cluster):
    stack = cluster.stack
    run = stack.launch("exceed_the_memory", tags={"dagster/max_retries": "0"})
    assert stack.finished(run, 180) == "FAILURE"
    assert "memory" in stack.said_of(run), stack.said_of(run)


@pytest.mark.short
def test_a_run_ends_when_it_is_terminated(cluster):
    stack = cluster.stack
    run = stack.launch("hang")
    wait_until(lambda: stack.status_of(run) == "STARTED", "the start")
    stack.terminate(run)
    assert stack.finished(run) == "CANCELED"
    wait_until(lambda: pod_of(cluster, run) is None, "the pod to be gone")


@pytest.mark.short
def test_a_pod_reaches_what_the_networks_of_compose_let_it_reach_and_nothing_else(cluster):
    services = ("postgres:5432", "webserver.ui:3000", "sign_in:8000", "code_location:4000")
    api = "10.96.0.1:443"
    reached = {}
    for deployment in ("webserver", "daemon", "code-location", "edge", "sign-in"):
        words = ("exec", f"--namespace={cluster.name}", f"deployment/{deployment}", "--")
        said = cluster.kubectl(*words, "python", "-c", CONNECTS, *services, api)
        reached[deployment] = set(said.split())
    own = {
        "webserver": "webserver.ui:3000",
        "sign-in": "sign_in:8000",
        "code-location": "code_location:4000",
    }
    # A pod may reach itself through its Service.
    seen = {name: found - {own.get(name)} for name, found in reached.items()}
    assert seen == {
        "webserver": {"postgres:5432", "code_location:4000", "sign_in:8000", api},
        "daemon": {"postgres:5432", "code_location:4000", api},
        "code-location": {"postgres:5432"},
        "edge": {"webserver.ui:3000", "sign_in:8000"},
        "sign-in": {"webserver.ui:3000"},
    }


def test_pods_ask_only_the_dns_servers_of_the_cluster_for_names(cluster):
    """Another server at that port can be anything."""
    store = f"{cluster.name}-store"
    docker("exec", "--detach", store, "rclone", "serve", "http", "/data", "--addr=:53")
    elsewhere, service = f"{cluster.network}.50:53", "10.96.0.10:53"

    def reached(deployment):
        words = ("exec", *cluster.own, f"deployment/{deployment}", "--", "python", "-c", CONNECTS)
        return cluster.kubectl(*words, elsewhere, service).split()

    # Code connects to everything outside, the sign-in page to nothing there.
    wait_until(lambda: reached("code-location") == [elsewhere, service], "the server")
    assert reached("sign-in") == [service]


# What an attacker who writes rows of runs would have the daemon create. Each changes a Job that is
# allowed; the path is one of its fields.
ADDED = "one more"
POD = "spec", "template", "spec"
CONTAINER = (*POD, "containers", 0)
SECRET = {"name": "x", "secret": {"secretName": "owner-credentials"}}
ATTACKS = {
    "the database owner's password": ((*POD, "volumes", ADDED), SECRET),
    "a folder of the node": ((*POD, "volumes", ADDED), {"name": "x", "hostPath": {"path": "/"}}),
    "a token of the cluster": ((*POD, "volumes", ADDED), {"name": "x", "projected": {
        "sources": [{"serviceAccountToken": {"path": "token"}}]}}),
    "the daemon's account": ((*POD, "serviceAccountName"), "daemon"),
    "an account's token": ((*POD, "automountServiceAccountToken"), True),
    "the node's network": ((*POD, "hostNetwork"), True),
    "the node's processes": ((*POD, "hostPID"), True),
    "root": ((*POD, "securityContext", "runAsUser"), 0),
    "another user": ((*POD, "securityContext", "runAsUser"), 999),
    "another group": ((*POD, "securityContext", "supplementalGroups"), [0]),
    "rights on the node": ((*CONTAINER, "securityContext"), {"privileged": True}),
    "a capability": ((*CONTAINER, "securityContext", "capabilities", "add"), ["NET_ADMIN"]),
    "a writable root": ((*CONTAINER, "securityContext", "readOnlyRootFilesystem"), False),
    "another image": ((*CONTAINER, "image"), "alpine:latest"),
    "another command": ((*CONTAINER, "command"), ["sh", "-c", "id", "--"]),
    "other arguments": ((*CONTAINER, "args"), ["sh", "-c", "id", "x"]),
    "more memory": ((*CONTAINER, "resources", "limits", "memory"), "64Gi"),
    "no limit": ((*CONTAINER, "resources"), {}),
    "more of the processor": ((*CONTAINER, "resources", "limits", "cpu"), "16"),
    "a variable": ((*CONTAINER, "env"), [{"name": "LD_PRELOAD", "value": "/x.so"}]),
    "a secret as a variable": ((*CONTAINER, "env"), [{"name": "NOTIFICATION_WEBHOOK_URL",
        "valueFrom": {"secretKeyRef": {"name": "owner-credentials", "key": "pgpass"}}}]),
    "variables of a Secret": ((*CONTAINER, "envFrom"), [{"secretRef": {"name": "files"}}]),
    "a second container": ((*POD, "initContainers"), [{"name": "x", "image": "alpine"}]),
    "a port of the node": ((*CONTAINER, "ports"), [{"containerPort": 80, "hostPort": 80}]),
    "a probe as a way to connect": ((*CONTAINER, "livenessProbe"), {"tcpSocket": {"port": 22}}),
    "a hook": ((*CONTAINER, "lifecycle"), {"preStop": {"exec": {"command": ["id"]}}}),
    "a node": ((*POD, "nodeName"), "node0"),
    "priority over the stack": ((*POD, "priorityClassName"), "system-node-critical"),
    "the web server's clients": (("spec", "template", "metadata", "labels",
        "app.kubernetes.io/name"), "webserver"),
    "another network": (("spec", "template", "metadata", "labels",
        "network.dagster.stack/ui"), ""),
    "another location's secrets": (("spec", "template", "metadata", "labels",
        "dagster.stack/location"), "warehouse_location"),
    "many pods": (("spec", "parallelism"), 50),
    "a second start": ((*POD, "restartPolicy"), "OnFailure"),
    "a sidecar by annotation": (("spec", "template", "metadata", "annotations"), {"add": "it"}),
    "many attempts": (("spec", "backoffLimit"), 50),
    "a volume elsewhere": ((*CONTAINER, "volumeMounts"),
        [{"name": "work", "mountPath": "/opt/code"}]),
    "every node": ((*POD, "tolerations"), [{"operator": "Exists"}]),
    "a mark of nodes for longer": ((*POD, "tolerations", 0, "tolerationSeconds"), 3600),
    "a device": ((*CONTAINER, "resources", "limits", "nvidia.com/gpu"), "1"),
    "the disk of the node": ((*CONTAINER, "resources", "limits", "ephemeral-storage"), "1Ti"),
    "large pages": ((*CONTAINER, "resources"), {
        "limits": {"memory": "1Gi", "cpu": "1", "hugepages-2Mi": "512Mi"}}),
    "a claim of a device": ((*POD, "resourceClaims"), [{"name": "x", "resourceClaimName": "x"}]),
    "a node for itself": ((*POD, "affinity"), {"podAntiAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [{
            "topologyKey": "kubernetes.io/hostname",
            "labelSelector": {"matchExpressions": [{"key": "job-name", "operator": "Exists"}]}}]}}),
    "the node of another pod": ((*POD, "affinity"), {"podAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [{
            "topologyKey": "kubernetes.io/hostname",
            "labelSelector": {"matchLabels": {"app.kubernetes.io/name": "postgres"}}}]}}),
    "a spread over the nodes": ((*POD, "topologySpreadConstraints"), [{"maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule"}]),
    "a policy of failures": (("spec",), {"podReplacementPolicy": "Failed", "podFailurePolicy": {
        "rules": [{"action": "Ignore",
            "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]}}),
    "a second pod later": (("spec", "podReplacementPolicy"), "Failed"),
    "a policy of success": (("spec",), {"completionMode": "Indexed", "parallelism": 1,
        "completions": 1, "successPolicy": {"rules": [{"succeededCount": 1}]}}),
    "attempts by index": (("spec",), {"completionMode": "Indexed", "parallelism": 1,
        "completions": 1, "backoffLimitPerIndex": 5, "maxFailedIndexes": 1}),
    "an index": (("spec", "completionMode"), "Indexed"),
    "a Job that waits": (("spec", "suspend"), True),
    "another controller": (("spec", "managedBy"), "example.com/me"),
    "pods of others": (("spec",), {"manualSelector": True,
        "selector": {"matchLabels": {"app.kubernetes.io/name": "run"}}}),
    "a Job that stays": (("spec", "ttlSecondsAfterFinished"), 10**9),
    "a deadline": (("spec", "activeDeadlineSeconds"), 10**6),
    "a Job that nothing deletes": (("metadata", "finalizers"), ["example.com/x"]),
    "a Job of another owner": (("metadata", "ownerReferences"), [{"apiVersion": "v1",
        "kind": "ConfigMap", "name": "x", "uid": "12345678-1234-1234-1234-123456789012"}]),
    "annotations of the Job": (("metadata", "annotations"), {"add": "it"}),
    "a Job that is no run": (("metadata", "labels", "app.kubernetes.io/name"), "daemon"),
    "a pod that nothing deletes": (("spec", "template", "metadata", "finalizers"),
        ["example.com/x"]),
    "a long end": ((*POD, "terminationGracePeriodSeconds"), 10**6),
    "a gate of the scheduler": ((*POD, "schedulingGates"), [{"name": "example.com/x"}]),
    "another scheduler": ((*POD, "schedulerName"), "mine"),
    "names of its own": ((*POD, "dnsPolicy"), "Default"),
    "a host's name": ((*POD, "hostname"), "postgres"),
    "a file of the node as its last word": ((*CONTAINER, "terminationMessagePath"), "/etc/passwd"),
    "another folder": ((*CONTAINER, "workingDir"), "/proc"),
    "a terminal": ((*CONTAINER, "tty"), True),
    "an input": ((*CONTAINER, "stdin"), True),
    "an image that is pulled again": ((*CONTAINER, "imagePullPolicy"), "Always"),
    "more in memory": ((*POD, "volumes", "scratch", "emptyDir", "sizeLimit"), "64Gi"),
    "all in memory": ((*POD, "volumes", "work", "emptyDir", "medium"), "Memory"),
    "no limit in memory": ((*POD, "volumes", "scratch", "emptyDir"), {"medium": "Memory"}),
    "a Secret that all users read": (
        (*POD, "volumes", "credentials", "secret", "defaultMode"), 0o444),
    "a part of a Secret elsewhere": ((*POD, "volumes", "credentials", "secret", "items"),
        [{"key": "pgpass", "path": "x"}]),
    "mounts of the node": ((*CONTAINER, "volumeMounts", "work", "mountPropagation"),
        "HostToContainer"),
    "a port of code servers": (("spec", "template", "metadata", "labels",
        "dagster.stack/candidate"), ""),
    "a Service of others": (("spec", "template", "metadata", "labels", "app"), "web"),
}  # fmt: skip


@pytest.fixture(scope="module")
def job(cluster):
    """The Job of a run, as the daemon creates it."""
    run = cluster.stack.run(ONE_OP, seconds=180)
    words = ("get", "jobs", f"--namespace={cluster.name}", "--output=json")
    made = json.loads(cluster.kubectl(*words, f"--selector=dagster/run-id={run}"))["items"][0]
    made["metadata"] = {"name": "copy", "labels": labels_of(made["metadata"])}
    made["spec"].pop("selector")
    made.pop("status")
    made["spec"]["template"]["metadata"]["labels"] = labels_of(made["spec"]["template"]["metadata"])
    return made


def labels_of(metadata):
    """Without those that the cluster adds."""
    added = "controller-uid", "job-name"
    return {k: v for k, v in metadata["labels"].items() if not k.endswith(added)}


def named(listed, name):
    return next(one for one in listed if one["name"] == name)


def create(cluster, made, account="daemon"):
    user = f"--as=system:serviceaccount:{cluster.name}:{account}"
    words = ("create", "--dry-run=server", f"--namespace={cluster.name}", user, "--filename=-")
    return cluster.kubectl(*words, given=json.dumps(made), check=False)


@pytest.mark.short
def test_the_daemon_may_create_the_job_of_a_run(cluster, job):
    assert "job.batch/copy created" in create(cluster, job)
    assert "cannot create resource" in create(cluster, job, "webserver")
    assert "cannot create resource" in create(cluster, job, "runs")


@pytest.mark.short
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_forged_run_gets_nothing_that_dagster_yaml_does_not_give(cluster, job, attack):
    path, value = ATTACKS[attack]
    forged = copy.deepcopy(job)
    place = forged
    for step in path[:-1]:
        if isinstance(place, list):
            place = place[step] if isinstance(step, int) else named(place, step)
        else:
            place = place.setdefault(step, {})
    if path[-1] == ADDED:
        place.append(value)
    elif path == ("spec",):
        place["spec"] |= value
    else:
        place[path[-1]] = value
    if path[-1] == "hostPID":  # Kubernetes takes no pod with both
        place.pop("shareProcessNamespace")
    said = create(cluster, forged)
    assert "created" not in said, said
    assert "refused: " in said, said


def test_a_run_may_choose_nodes_and_request_less(cluster, job):
    chosen = copy.deepcopy(job)
    pod = chosen["spec"]["template"]["spec"]
    pod["nodeSelector"] = {"kubernetes.io/hostname": "node1"}
    pod["affinity"] = {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "disk", "operator": "Exists"}]}]
            }
        }
    }
    pod["containers"][0]["resources"] = {
        "limits": {"memory": "300Mi", "cpu": "500m"}, "requests": {"memory": "300Mi"}
    }  # fmt: skip
    assert "job.batch/copy created" in create(cluster, chosen)


@pytest.mark.short
@pytest.mark.parametrize("account", ["daemon", "webserver"])
def test_an_account_of_the_stack_deletes_only_runs(cluster, job, account):
    """A stolen token would end the stack otherwise."""
    user = f"--as=system:serviceaccount:{cluster.name}:{account}"
    words = "delete", "--dry-run=server", "--wait=false", *cluster.own, user
    run = job["metadata"]["labels"]["dagster/run-id"]
    pod = pod_of(cluster, run)["metadata"]["name"]
    for one in (f"job/dagster-run-{run}", f"pod/{pod}"):
        assert "deleted" in cluster.kubectl(*words, one)
    pods = cluster.kubectl("get", "pods", *cluster.own, "--output=name").split()
    kept = [one for one in pods if not one.startswith("pod/dagster-run-")]
    assert len(kept) >= len(PARTS)
    for one in (*kept, "job/migrate"):
        said = cluster.kubectl(*words, one, check=False)
        assert "refused: only runs are deleted" in said, said


@pytest.mark.short
def test_the_api_server_finds_no_fault_in_the_policies(cluster):
    """It compares expressions with the types of what they are for, and notes what does not fit."""
    words = "get", "validatingadmissionpolicies", "--output=json"
    selector = f"--selector=app.kubernetes.io/part-of={cluster.name}"
    policies = json.loads(cluster.kubectl(*words, selector))["items"]
    assert {one["metadata"]["name"] for one in policies} == {
        f"{cluster.name}-runs", f"{cluster.name}-deletions"
    }  # fmt: skip
    for one in policies:
        assert one["status"]["observedGeneration"] == one["metadata"]["generation"]
        assert not one["status"].get("typeChecking", {}).get("expressionWarnings")


@pytest.mark.short
@pytest.mark.parametrize("account", ["daemon", "webserver", "runs", "default"])
def test_an_account_of_the_stack_can_do_nothing_else_on_the_cluster(cluster, account):
    user = f"--as=system:serviceaccount:{cluster.name}:{account}"
    listed = cluster.kubectl("auth", "can-i", "--list", user, f"--namespace={cluster.name}")
    rights = {
        (line.split()[0], line.rpartition("[")[2].rstrip("]"))
        for line in listed.splitlines()[1:]
        if not line.startswith(("self", " ")) and line.split()[0] != "Resources"
    }
    look = {("pods/log", "get"), ("pods", "get list delete")}
    expected = {
        "daemon": look | {("jobs.batch", "create get list delete")},
        "webserver": look | {("jobs.batch", "get list delete")},
    }
    assert rights == expected.get(account, set())


def test_the_run_of_a_lost_node_is_launched_again_elsewhere_within_a_minute(cluster):
    stack = cluster.stack
    cluster.kubectl("cordon", "node0", "node1")
    run = stack.launch("hang")
    wait_until(lambda: stack.status_of(run) == "STARTED", "the start")
    cluster.kubectl("uncordon", "node0", "node1")
    assert pod_of(cluster, run)["spec"]["nodeName"] == LOST
    docker("kill", cluster.node(2))
    wait_until(lambda: stack.status_of(run) in FINAL, "the run to be given up", 75)
    assert stack.status_of(run) == "FAILURE"
    assert f"taken from the node {LOST}" in stack.said_of(run), stack.said_of(run)
    (again,) = wait_until(lambda: stack.retries_of(run), "the run to be launched again", 60)
    # Before its pod is there, a request to end it is refused.
    wait_until(lambda: stack.status_of(again) == "STARTED", "the second attempt", 180)
    stack.terminate(again)
    assert stack.finished(again) == "CANCELED"
    docker("start", cluster.node(2))
    wait_until(lambda: cluster.ready() == 3, "the node to be back", 180)
    # Its image is still there, and it is used again.
    assert stack.run(ONE_OP, seconds=180, tags=on_node(LOST))


def test_what_a_lost_node_had_of_the_control_plane_begins_elsewhere(cluster):
    stack = cluster.stack
    parts = "daemon", "edge", "sign-in"
    move(cluster, LOST, *parts)
    run = stack.launch("hang", tags=on_node("node1"))
    wait_until(lambda: stack.status_of(run) == "STARTED", "the start")
    docker("kill", cluster.node(2))
    try:
        elsewhere = ["node0"], ["node1"]
        wait_until(
            lambda: all(where(cluster, name) in elsewhere for name in parts), "the others", 180
        )
        reach(cluster)
        assert stack.run(ONE_OP, seconds=180, tags=on_node("node1"))
        assert stack.status_of(run) == "STARTED"
        stack.terminate(run)
    finally:
        docker("start", cluster.node(2))
    wait_until(lambda: cluster.ready() == 3, "the node to be back", 180)


def test_a_lost_node_with_the_database_is_deleted_and_nothing_is_lost(cluster):
    """With a volume that another node can mount."""
    stack = cluster.stack
    move(cluster, LOST, "postgres")
    ended_run = stack.run(ONE_OP, seconds=180)
    run = stack.launch("hang", tags=on_node("node1"))
    wait_until(lambda: stack.status_of(run) == "STARTED", "the start")
    docker("kill", cluster.node(2))
    try:
        wait_until(lambda: cluster.ready() == 2, "the node to be missed", 90)
        done = stack.verb("cluster-status")
        assert done.returncode == 1
        assert "postgres" in done.stdout + done.stderr
        cluster.kubectl("delete", "node", LOST)
        elsewhere = ["node0"], ["node1"]
        wait_until(lambda: where(cluster, "postgres") in elsewhere, "the database", 180)
        reach(cluster)
        assert stack.status_of(ended_run) == "SUCCESS"
        assert stack.run(ONE_OP, seconds=240, tags=on_node("node1"))
        assert stack.status_of(run) == "STARTED"
        stack.terminate(run)
        assert stack.finished(run) == "CANCELED"
    finally:
        docker("start", cluster.node(2))
    wait_until(lambda: cluster.ready() == 3, "the node to be back", 180)


def test_a_process_on_a_node_without_the_api_server_is_refused_once_its_run_was_given_up(cluster):
    stack = cluster.stack
    # It ends, too, and another one sees to the run.
    move(cluster, LOST, "daemon")
    run = stack.launch("observe", tags=on_node(LOST))
    wait_until(lambda: stack.status_of(run) == "STARTED", "the start")
    rule = "OUTPUT", "-d", f"{cluster.network}.10", "-p", "tcp", "--dport", "6443", "-j", "DROP"
    docker("exec", cluster.node(2), "iptables", "-I", *rule)
    try:
        wait_until(lambda: stack.status_of(run) == "FAILURE", "the run to be given up", 150)
        (again,) = wait_until(lambda: stack.retries_of(run), "the run to be launched again", 60)
        # It lived until then, and not much longer, though Kubernetes cannot end it.
        wait_until(lambda: not cluster.processes(2, run), "the process to end")
        late = f"""SELECT count(*) FROM event_logs JOIN runs USING (run_id)
            WHERE run_id = '{run}' AND dagster_event_type = 'ASSET_OBSERVATION'
            AND timestamp > to_timestamp(end_time) AT TIME ZONE 'UTC' + interval '1 second'"""
        seen = f"SELECT count(*) FROM event_logs WHERE run_id = '{run}'"
        assert cluster.sql(late) == "0"
        assert int(cluster.sql(seen)) > 20
    finally:
        docker("exec", cluster.node(2), "iptables", "-D", *rule)
    wait_until(lambda: cluster.ready() == 3, "the node to be back", 180)
    # It is for the same node.
    wait_until(lambda: stack.status_of(again) == "STARTED", "the second attempt", 180)
    stack.terminate(again)
    assert stack.finished(again) == "CANCELED"


def test_a_node_is_drained_without_a_run_lost(cluster):
    stack = cluster.stack
    run = stack.launch("hang", tags=on_node(LOST))
    wait_until(lambda: stack.status_of(run) == "STARTED", "the start")
    words = "drain", LOST, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=300s"
    said = stack.root / "drain.log"
    with said.open("w") as log, subprocess.Popen(
        ["kubectl", *words], env=stack.environment, stdout=log, stderr=subprocess.STDOUT
    ) as drain:  # fmt: skip
        wait_until(lambda: "disruption budget" in said.read_text(), "the drain to wait")
        other = stack.run(ONE_OP, seconds=180)
        assert pod_of(cluster, other)["spec"]["nodeName"] != LOST
        assert stack.status_of(run) == "STARTED"
        stack.terminate(run)  # in the place of its end
        assert drain.wait(180) == 0, said.read_text()
    cluster.kubectl("uncordon", LOST)
    assert stack.finished(run) == "CANCELED"


def test_with_a_registry_nodes_pull_images_by_their_digests(cluster):
    stack = cluster.stack
    registry = cluster.start_registry()
    with (stack.root / ".env").open("a") as settings:
        settings.write(f"\nCLUSTER_REGISTRY={registry}/stack")
    up_again(cluster)
    pods = json.loads(cluster.kubectl("get", "pods", *cluster.own, "--output=json"))["items"]
    images = {
        pod["metadata"]["labels"]["app.kubernetes.io/name"]: pod["spec"]["containers"][0]["image"]
        for pod in pods if "deletionTimestamp" not in pod["metadata"]
    }  # fmt: skip
    images = {name: image for name, image in images.items() if name in PARTS}
    by_digest = re.compile(rf"{re.escape(registry)}/stack/\S+@sha256:[0-9a-f]{{64}}")
    assert set(images) == set(PARTS)
    assert all(by_digest.fullmatch(image) for image in images.values()), images
    run = stack.run(ONE_OP, seconds=180)
    assert pod_of(cluster, run)["spec"]["containers"][0]["image"] == images["code-location"]


ADDED_CODE = """
from dagster import DefaultScheduleStatus, ScheduleDefinition, job, op

@op
def add(): ...

@job
def added(): add()

yearly = ScheduleDefinition(
    name="yearly", job=added, cron_schedule="0 0 1 1 *",
    default_status=DefaultScheduleStatus.RUNNING,
)
"""


def test_code_is_deployed_checked_and_rolled_back(cluster):
    """With the registry of the test before."""
    stack = cluster.stack
    file = stack.root / "code_location/src/code_location/defs/added.py"
    file.write_text('raise RuntimeError("not today")\n')
    done = stack.verb("cluster-up")
    assert done.returncode == 1
    assert "the previous code stays live: code-location: it does not load" in done.stderr
    assert "RuntimeError: not today" in done.stderr
    stack.run(ONE_OP, seconds=180)

    file.write_text(ADDED_CODE)
    assert "jobs added: added\n" in up_again(cluster)
    stack.run("added", seconds=180)

    file.unlink()
    done = stack.verb("cluster-up")
    assert done.returncode == 1
    assert "yearly, which is switched on, is gone" in done.stderr, done.stderr
    stack.run("added", seconds=180)

    assert "jobs removed: added\n" in up_again(cluster, "--anyway")
    deployment = "deployment/code-location"
    cluster.kubectl("rollout", "undo", deployment, *cluster.own)
    cluster.kubectl("rollout", "status", deployment, *cluster.own)
    wait_until(lambda: "added" in jobs_of(stack), "the job to be back")
    stack.run("added", seconds=180)


def jobs_of(stack):
    """The names of the jobs of all code locations."""
    asked = stack.graphql(JOBS)["repositoriesOrError"]["nodes"]
    return {job["name"] for node in asked for job in node["jobs"]}


def test_the_control_plane_restarts_and_runs_go_on(cluster):
    stack = cluster.stack
    run = stack.launch("hang")
    wait_until(lambda: stack.status_of(run) == "STARTED", "the start")
    docker("exec", cluster.node(0), "pkill", "-9", "-f", "kube-apiserver --etcd")
    wait_until(lambda: cluster.ready() == 3, "the API server", 180)
    # kubectl's way to the edge goes through it.
    wait_until(lambda: answers(stack), "the web UI")
    assert stack.status_of(run) == "STARTED"
    stack.run(ONE_OP, seconds=240)
    stack.terminate(run)
    assert stack.finished(run) == "CANCELED"


def test_after_the_last_backup_the_cluster_is_down_and_up_again_keeps_the_history(cluster):
    stack = cluster.stack
    run = stack.run(ONE_OP, seconds=180)
    done = stack.verb("cluster-backup", "--last", "--to", "last")
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    assert list((stack.root / "last").iterdir())
    namespace = f"--namespace={cluster.name}"
    wait_until(lambda: not cluster.kubectl("get", "pods", namespace, "--output=name"), "no pod")
    assert "is not on this cluster" in stack.verb("cluster-status").stderr
    done = stack.verb("cluster-up")
    assert "the stack may have moved on, with its last backup" in done.stderr, done.stderr
    # Those of the clients have its passwords, too.
    cluster.kubectl("delete", "secret", "postgres-credentials", *cluster.own)
    up_again(cluster, "--anyway")
    wait_until(lambda: answers(stack), "the web UI")
    # Also the password is the same.
    assert stack.status_of(run) == "SUCCESS"
    done = stack.verb("cluster-down", "--destroy", "--force")
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    left = cluster.kubectl(
        "get", "namespaces,validatingadmissionpolicies,validatingadmissionpolicybindings",
        f"--selector=app.kubernetes.io/part-of={cluster.name}", "--output=name",
    )  # fmt: skip
    assert not left


def test_the_way_back_keeps_what_is_on_the_machine_only(cluster):
    """With the last backup of the test before."""
    stack = cluster.stack
    (file,) = map(str, (stack.root / "last").iterdir())
    inbox = f"--volume={stack.name}_inbox:/inbox"
    image = stack.config["services"]["postgres"]["image"]
    inside = "run", "--rm", "--user=0:0", inbox, "--entrypoint=sh", image, "-c"
    docker(*inside, "echo kept >/inbox/file")
    done = stack.verb("restore", file, "--replace", "--no-start")
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    assert docker(*inside, "cat /inbox/file") == "kept\n"
    # Nothing refuses a start any more.
    done = stack.compose("run", "--rm", "--no-TTY", "--no-deps", "prepare", check=False)
    assert done.returncode == 0, done.stderr
