"""What the cluster gets is what docker-compose.yml and dagster.yaml say. Needs no cluster."""

import copy
import dataclasses
import json
import os
import re
import subprocess

import pytest
import yaml

from control_plane.cluster import admission, manifests, run_pods
from control_plane.cluster.run_pods import NETWORK_LABEL, name_of
from support import ROOT

ADDRESS = "10.96.7.7"
API = [{"ip": "192.0.2.1", "port": 6443}]
INSTANCE = yaml.safe_load((ROOT / "dagster.yaml").read_text())


def compose_with(*profiles):
    settings = {"PATH": os.environ["PATH"], "STORE": "s3", "STORE_CONFIG": "/dev/zero"}
    command = "docker", "compose", "--env-file=/dev/null", "--profile=cluster", "--profile=viewer"
    done = subprocess.run(
        [*command, *profiles, "config", "--format=json"], env=settings, cwd=ROOT, check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def compose():
    return compose_with()


@pytest.fixture(scope="module")
def stack(compose):
    images = {
        one["image"]: {
            "ref": f"registry/{one['image']}@sha256:1",
            "entrypoint": [],
            "cmd": ["x"],
            "user": "10001",
        }
        for one in compose["services"].values()
    }
    made = manifests.Stack(compose, images, {}, API, {"code_location": ["earlier"]})
    addresses = dict.fromkeys(made.services, ADDRESS)
    return manifests.Stack(compose, images, addresses, API, {"code_location": ["earlier"]})


@pytest.fixture(scope="module")
def objects(stack, monkeypatch_module):
    return {
        (one["kind"], one["metadata"]["name"]): one
        for phase in manifests.phases(stack).values()
        for one in phase
    }


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        yield patch


def workload(objects, service):
    kind = "StatefulSet" if service == "postgres" else "Deployment"
    return objects[kind, name_of(service)]["spec"]["template"]


def test_each_service_has_its_limits_user_and_root_on_the_cluster(stack, compose, objects):
    assert {"edge", "sign_in", "webserver", "webserver_viewer", "daemon", "code_location"} <= set(
        stack.services
    )
    for name in stack.services:
        service, pod = compose["services"][name], workload(objects, name)["spec"]
        (container,) = pod["containers"]
        assert container["resources"]["limits"]["memory"] == str(service["mem_limit"])
        assert container["resources"]["limits"]["cpu"] == f"{service['cpus']:g}"
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert pod["securityContext"]["runAsNonRoot"] is True
        # The probe of Compose, word for word but for the pod's own address.
        probe = container["readinessProbe"]["exec"]["command"][2]
        assert probe.startswith(f"exec {service['healthcheck']['test'][1]}")


def test_each_pod_is_on_the_networks_of_its_service_and_the_policies_are_theirs(
    stack, compose, objects
):
    for name in stack.services:
        labels = workload(objects, name)["metadata"]["labels"]
        on = {label.removeprefix(NETWORK_LABEL) for label in labels if NETWORK_LABEL in label}
        assert on == set(compose["services"][name].get("networks") or {})
    for network, described in compose["networks"].items():
        (rule,) = objects["NetworkPolicy", f"from-{network}"]["spec"]["egress"]
        outside = [one["ipBlock"] for one in rule["to"] if "ipBlock" in one]
        assert bool(outside) != bool(described.get("internal")), network
        assert all("192.0.2.1/32" in one["except"] for one in outside)
    assert objects["NetworkPolicy", "nothing"]["spec"]["policyTypes"] == ["Ingress", "Egress"]


@pytest.mark.parametrize(("runs", "connections"), [(10, 200), (25, 200), (100, 500)])
def test_queue_and_database_have_room_for_the_runs_at_once(stack, runs, connections, monkeypatch):
    monkeypatch.chdir(ROOT)
    made = changed(stack, CLUSTER_MAX_RUNS=str(runs))
    instance = yaml.safe_load(made["ConfigMap", "instance"]["data"]["dagster.yaml"])
    assert instance["concurrency"]["runs"]["max_concurrent_runs"] == runs
    (container,) = workload(made, "postgres")["spec"]["containers"]
    given = [word for word in container["args"] if word.startswith("-cmax_connections")]
    assert given == [f"-cmax_connections={connections}"]
    on_one_machine = int(stack.compose["services"]["postgres"]["mem_limit"])
    memory = on_one_machine + (connections - 200) * manifests.CONNECTION_BYTES
    assert container["resources"]["limits"]["memory"] == str(memory)


def changed(stack, **settings):
    """The objects of the stack with other settings for clusters."""
    compose = copy.deepcopy(stack.compose)
    compose["services"]["cluster"]["environment"] |= settings
    described = dataclasses.replace(stack, compose=compose)
    return {
        (one["kind"], one["metadata"]["name"]): one
        for phase in manifests.phases(described).values()
        for one in phase
    }


def most_pods(objects):
    return int(objects["ResourceQuota", "pods"]["spec"]["hard"]["pods"])


def test_the_limit_of_pods_grows_with_runs_web_servers_and_code_locations(stack, monkeypatch):
    monkeypatch.chdir(ROOT)
    pods = most_pods(changed(stack))
    # Each for a node that does not answer, and for one that is in its place.
    assert most_pods(changed(stack, CLUSTER_MAX_RUNS="30")) == pods + 2 * 20
    assert most_pods(changed(stack, CLUSTER_WEB_SERVERS="5")) == pods + 2 * 3
    compose = copy.deepcopy(stack.compose)
    compose["services"]["other_location"] = compose["services"]["code_location"]
    more = dataclasses.replace(stack, compose=compose)
    # One that is live, and the next one.
    assert manifests._most_pods(more) == pods + 2 * 2


def test_runs_connect_to_no_network_of_the_cluster_that_is_named(stack, monkeypatch):
    monkeypatch.chdir(ROOT)
    made = changed(stack, CLUSTER_NETWORKS="10.244.0.0/16 fd00::/64 192.0.2.0/24")
    (rule,) = made["NetworkPolicy", "from-runs"]["spec"]["egress"]
    (block,) = [one["ipBlock"] for one in rule["to"] if "ipBlock" in one]
    assert block["cidr"] == "0.0.0.0/0"
    assert set(block["except"]) == {
        "169.254.0.0/16", "192.0.2.1/32", "10.244.0.0/16", "192.0.2.0/24"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("networks", "said"),
    [
        ("10.244.0.0/33", "CLUSTER_NETWORKS: .*10.244.0.0/33"),
        ("10.244.0.7/16", "CLUSTER_NETWORKS: .*host bits set"),
        ("0.0.0.0/0", "CLUSTER_NETWORKS: a network of all addresses"),
    ],
)
def test_a_network_that_is_none_is_refused_by_name(stack, networks, said, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(run_pods.Refused, match=said):
        changed(stack, CLUSTER_NETWORKS=networks)


def test_an_api_server_with_an_ipv6_address_is_reached_there_and_is_no_exception(
    stack, monkeypatch
):
    monkeypatch.chdir(ROOT)
    made = changed(dataclasses.replace(stack, api=[{"ip": "2001:db8::1", "port": 6443}]))
    (rule,) = made["NetworkPolicy", "daemon-to-api"]["spec"]["egress"]
    assert rule["to"] == [{"ipBlock": {"cidr": "2001:db8::1/128"}}]
    (rule,) = made["NetworkPolicy", "from-runs"]["spec"]["egress"]
    assert [one["ipBlock"]["except"] for one in rule["to"] if "ipBlock" in one] == [
        ["169.254.0.0/16"]
    ]


def test_only_the_dns_servers_of_the_cluster_are_asked_for_names(objects):
    (rule,) = objects["NetworkPolicy", "names"]["spec"]["egress"]
    assert {one["port"] for one in rule["ports"]} == {53}
    pods, node = rule["to"]
    assert pods["namespaceSelector"]["matchLabels"] == {
        "kubernetes.io/metadata.name": "kube-system"
    }
    assert pods["podSelector"]["matchLabels"] == {"k8s-app": "kube-dns"}
    assert node == {"ipBlock": {"cidr": "169.254.20.10/32"}}


def test_the_policy_for_runs_has_each_rule_once_and_says_what_it_refuses(stack, objects):
    spec = objects["ValidatingAdmissionPolicy", f"{stack.name}-runs"]["spec"]
    messages = [one["message"] for one in spec["validations"]]
    assert all(one.startswith("refused: ") for one in messages)
    for of in ("pod", "container"):
        assert f"refused: another securityContext of the {of} (dagster.yaml, run_launcher)" in (
            messages
        )
    assert len({one["expression"] for one in spec["validations"]}) == len(messages)


@pytest.mark.parametrize(
    ("memory", "nano_cpus", "requests"),
    [
        (2**30, 10**9, {"memory": str(2**29), "cpu": "0.25"}),
        (2**26, None, {"memory": str(2**25)}),
        (None, 10**7, {"cpu": "0.0025"}),
    ],
)
def test_a_run_requests_a_part_of_its_limits(memory, nano_cpus, requests):
    made = run_pods.resources(memory, nano_cpus)
    assert made["requests"] == requests
    assert made["limits"].keys() == requests.keys()


def test_only_web_server_and_daemon_have_rights_on_the_cluster(stack, objects):
    mounted = {
        name
        for name in stack.services
        if workload(objects, name)["spec"]["automountServiceAccountToken"]
    }
    assert mounted == {"webserver", "daemon"}


def test_each_pod_has_the_password_of_its_own_role_only(stack, compose, objects):
    for name in stack.services:
        given = {one["source"] for one in compose["services"][name].get("volumes", [])}
        wanted = {one for one in given if one.endswith("-credentials")}
        volumes = workload(objects, name)["spec"]["volumes"]
        secrets = {one["secret"]["secretName"] for one in volumes if "secret" in one}
        assert {one for one in secrets if one.endswith("-credentials")} == wanted, name


def test_what_listens_is_what_the_edge_the_probes_and_the_workspace_connect_to(stack):
    caddyfile = (ROOT / "control_plane/edge/Caddyfile").read_text()
    asked = set(re.findall(r"reverse_proxy (\w+):(\d+)", caddyfile))
    asked |= {(host, "3000") for host in re.findall(r"import from (\w+)\.ui", caddyfile)}
    for host, port in asked:
        service = {"viewer": "webserver_viewer"}.get(host, host)
        assert int(port) in {p for ports in stack.listens(service).values() for p in ports}, host


def test_a_run_has_what_dagster_yaml_gives_it(monkeypatch_module):
    config = run_pods.config_of(INSTANCE["run_launcher"]["config"], "name", 60)
    container = config["run_k8s_config"]["container_config"]
    assert container["resources"]["limits"] == {"memory": str(2**30), "cpu": "1"}
    assert container["security_context"]["capabilities"] == {"drop": ["ALL"]}
    assert config["run_k8s_config"]["pod_spec_config"]["termination_grace_period_seconds"] == 30
    assert f"{NETWORK_LABEL}runs" in config["run_k8s_config"]["job_metadata"]["labels"]
    # Each mount of a run is one of the rules, and no other.
    rules = "".join(admission.rules(config).values())
    assert all(
        f'"name": dyn("{one["name"]}"), "mountPath": dyn("{one["mount_path"]}")' in rules
        for one in container["volume_mounts"]
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"devices": ["/dev/kvm"]}, "devices has no meaning on a cluster"),
        ({"volumes": ["/srv/files:/files"]}, "/files: nodes share no volumes"),
    ],
)
def test_what_a_pod_would_not_get_is_refused_by_name(change, said):
    launcher = copy.deepcopy(INSTANCE["run_launcher"]["config"])
    launcher["container_kwargs"] |= change
    with pytest.raises(run_pods.Refused, match=said):
        run_pods.config_of(launcher, "name", 60)


@pytest.mark.parametrize("profile", ["warehouse", "backup"])
def test_a_service_whose_files_would_be_lost_is_refused_and_backups_are_left_out(
    stack, profile, monkeypatch
):
    monkeypatch.chdir(ROOT)
    described = dataclasses.replace(stack, compose=compose_with(f"--profile={profile}"))
    described.images.update({
        one["image"]: {"ref": one["image"], "entrypoint": [], "cmd": ["x"], "user": "10001"}
        for one in described.compose["services"].values()
    })  # fmt: skip
    if profile == "backup":
        assert manifests.phases(described)
        return
    with pytest.raises(run_pods.Refused, match="would be empty at each start of its pod"):
        manifests.phases(described)


def test_a_certificate_of_the_edge_is_refused(stack, monkeypatch):
    monkeypatch.chdir(ROOT)
    compose = copy.deepcopy(stack.compose)
    compose["services"]["edge"]["environment"]["SITE"] = "https://dagster.example.com"
    with pytest.raises(run_pods.Refused, match="leave out DOMAIN"):
        manifests.phases(dataclasses.replace(stack, compose=compose))


def test_runs_keep_the_last_images_each_counted_once(stack, monkeypatch):
    monkeypatch.chdir(ROOT)
    now = stack.ref(stack.compose["services"]["code_location"]["image"])
    earlier = [now, now, "a", now, "b", "a", "c", "d", "e", "f"]
    described = dataclasses.replace(stack, earlier={"code_location": earlier})
    (images,) = (
        one["data"]["code_location"]
        for one in manifests.phases(described)["base"]
        if one["metadata"]["name"] == admission.IMAGES
    )
    assert images.split() == [now, "a", "b", "c", "d", "e"]
