"""What must agree between files that cannot refer to each other. Needs no Docker."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
INSTANCE = yaml.safe_load((ROOT / "dagster.yaml").read_text())
LOCATIONS = {
    entry["grpc_server"]["host"]: entry["grpc_server"]
    for entry in yaml.safe_load((ROOT / "workspace.warehouse.yaml").read_text())["load_from"]
}
WORKSPACE = yaml.safe_load((ROOT / "workspace.yaml").read_text())
SERVICES = COMPOSE["services"]
# What the profile `warehouse` starts for run containers to write to.
STORES = {
    name
    for name, service in SERVICES.items()
    if service.get("image", "").endswith("-stores:current")
}
LAUNCHER = INSTANCE["run_launcher"]["config"]
POSTGRES = INSTANCE["storage"]["postgres"]["postgres_db"]
TRACKED = subprocess.run(
    ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
).stdout.split()


def text(name):
    return (ROOT / name).read_text()


def volumes(service):
    """Volume or path: where it is mounted."""
    return dict(entry.split(":")[:2] for entry in SERVICES[service].get("volumes", []))


def run_volumes():
    """The same for run containers, without the stack's name."""
    entries = LAUNCHER["container_kwargs"]["volumes"]
    return dict(entry.removeprefix("${STACK_NAME}_").split(":")[:2] for entry in entries)


def base_image_defaults(name):
    """Every default for PYTHON_IMAGE or POSTGRES_IMAGE, by file."""
    found = {}
    for file in ("docker-compose.yml", *(path.name for path in ROOT.glob("Dockerfile.*"))):
        for match in re.findall(rf"ARG {name}=(\S+)|\${{{name}:-([^}}]+)}}", text(file)):
            found.setdefault(file, set()).add("".join(match))
    official = re.search(rf"OFFICIAL_{name.split('_')[0]}=(\S+)", text("scripts/setup.sh"))
    found["scripts/setup.sh"] = {official.group(1)}
    return found


def test_the_files_under_test_are_not_empty():
    assert len(SERVICES) >= 7
    assert LAUNCHER["container_kwargs"]["volumes"]
    assert WORKSPACE["load_from"]
    assert len(TRACKED) > 30


@pytest.mark.parametrize("name", ["PYTHON_IMAGE", "POSTGRES_IMAGE"])
def test_a_base_image_is_the_same_everywhere_and_exactly_tagged(name):
    """Else `docker build` and `docker compose build` make different images."""
    found = base_image_defaults(name)
    assert len(found) >= 3
    (image,) = set.union(*found.values())
    assert re.fullmatch(r"\w+:\d+\.\d+(\.\d+)?-[\w-]+", image)


def test_stand_ins_have_the_major_versions_of_the_official_images():
    """Else a volume made with the one cannot be read with the other."""
    for name, standin in (("PYTHON", r"python:(\d+\.\d+)-"), ("POSTGRES", r"postgres:(\d+)-")):
        official = re.search(rf"OFFICIAL_{name}=\w+:(\S+)", text("scripts/setup.sh")).group(1)
        major = re.search(rf"STANDIN_{name}=standin/{standin}", text("scripts/setup.sh")).group(1)
        assert official.startswith(f"{major}.")


def test_every_requirement_is_pinned_with_hashes_and_names_no_address():
    for file in sorted((ROOT / "requirements").glob("*.txt")):
        blocks = re.split(r"\n(?=\S)", file.read_text())
        pins = [block for block in blocks if not block.startswith("#")]
        assert pins, file
        for pin in pins:
            assert re.match(r"[\w.\[\]-]+==\S+", pin), pin
            assert "--hash=sha256:" in pin, pin
        assert "://" not in file.read_text(), file


def test_both_images_and_the_tests_have_the_same_version_of_everything_they_share():
    """Host processes must not be older than code locations, and events must deserialize."""
    seen = {}
    for file in (ROOT / "requirements").glob("*.txt"):
        if file.name == "stores.txt":
            continue  # other people's servers, which share nothing with Dagster
        for package, version in re.findall(r"^([\w.-]+)==([\w.]+) \\$", file.read_text(), re.M):
            assert seen.setdefault(package, version) == version, (package, file)
    assert "dagster" in seen


def test_sqlalchemy_stays_below_2_1():
    """2.1 looks for psycopg 3 behind postgresql://, and nothing starts."""
    version = re.search(r"^sqlalchemy==(\d+)\.(\d+)", text("requirements/control-plane.txt"), re.M)
    assert (int(version[1]), int(version[2])) < (2, 1)


def test_the_instance_connects_to_the_database_that_compose_makes():
    environment = SERVICES["postgres"]["environment"]
    assert POSTGRES["hostname"] in SERVICES
    assert POSTGRES["username"] == environment["POSTGRES_USER"]
    assert POSTGRES["db_name"] == environment["POSTGRES_DB"]


def test_whoever_keeps_state_finds_the_password_where_the_instance_says():
    """libpq ignores a missing passfile silently and then fails to sign in."""
    folder = str(Path(POSTGRES["params"]["passfile"]).parent)
    for service in ("migrate", "webserver", "daemon", *LOCATIONS):
        assert volumes(service)["dagster-credentials"] == folder, service
    assert run_volumes()["dagster-credentials"] == folder


def test_the_password_file_belongs_to_the_user_that_the_images_run_as():
    """libpq refuses a passfile that others may read, so each user has its own."""
    uid = SERVICES["prepare"]["environment"]["DAGSTER_UID"]
    for file in ("Dockerfile.dagster", "Dockerfile.code", "Dockerfile.warehouse"):
        assert set(re.findall(r"useradd --uid (\d+)", text(file))) == {uid}
        assert set(re.findall(r"^USER (\d+):", text(file), re.M)) <= {uid, "0", "999"}
        assert re.findall(r"^USER (\d+):\1", text(file), re.M)[-1] in (uid, "999")


def test_run_containers_are_on_a_network_with_the_database_and_not_with_the_guard():
    (network,) = LAUNCHER["networks"]
    key = network.removeprefix("${STACK_NAME}_")
    assert COMPOSE["networks"][key]["name"] == f"${{STACK_NAME:-dagster}}_{key}"
    members = {name for name, service in SERVICES.items() if key in service.get("networks", [])}
    assert members - STORES == {"postgres"}


def test_run_containers_mount_volumes_of_this_stack_where_the_instance_looks():
    """A step's output or log written anywhere else is gone with the container."""
    mounts = run_volumes()
    for volume in mounts:
        assert COMPOSE["volumes"][volume]["name"] == f"${{STACK_NAME:-dagster}}_{volume}"
    artifacts = INSTANCE["local_artifact_storage"]["config"]["base_dir"]
    assert mounts["io-storage"] == f"{artifacts}/storage"
    logs = INSTANCE["compute_logs"]["config"]["base_dir"]
    assert mounts["compute-logs"] == logs
    assert volumes("webserver")["compute-logs"] == logs
    for location in LOCATIONS:
        assert volumes(location)["compute-logs"] == logs


def test_the_workspace_names_code_servers_that_compose_starts_on_that_port():
    for host, server in LOCATIONS.items():
        assert host in SERVICES
        assert server["location_name"] == host
        dockerfile = SERVICES[host]["build"]["dockerfile"]
        assert f'"--port", "{server["port"]}"' in text(dockerfile)
        assert f"127.0.0.1:{server['port']}" in str(SERVICES[server["host"]]["healthcheck"])


@pytest.mark.parametrize("location", LOCATIONS)
def test_runs_use_the_image_that_the_code_server_runs(location):
    server = SERVICES[location]
    assert server["environment"]["DAGSTER_CONTAINER_IMAGE"] == server["image"]


def test_the_workspace_without_the_profile_is_the_other_one_without_its_location():
    """A location that is not started would show as an error for ever."""
    started = [server for name, server in LOCATIONS.items() if "profiles" not in SERVICES[name]]
    assert [entry["grpc_server"] for entry in WORKSPACE["load_from"]] == started


def test_variables_in_the_launcher_section_are_set_in_the_control_plane():
    named = set(re.findall(r"\$\{(\w+)\}", str(LAUNCHER)))
    assert named
    for service in ("migrate", "webserver", "daemon"):
        assert named <= set(SERVICES[service]["environment"]), service


def test_the_label_that_finds_run_containers_is_the_one_the_launcher_sets():
    import stack

    assert LAUNCHER["container_kwargs"]["labels"] == {stack.STACK_LABEL: "${STACK_NAME}"}


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_has_limits_rotation_init_and_an_end(service):
    definition = SERVICES[service]
    assert definition["init"] is True
    assert definition["mem_limit"]
    assert definition["cpus"]
    assert definition["pids_limit"] >= 256
    assert definition["logging"]["options"]["max-size"]
    assert definition["cap_drop"] == ["ALL"]
    assert definition["security_opt"] == ["no-new-privileges:true"]
    assert definition["read_only"] is True
    if definition["restart"] == "no":
        waiting = [
            other["depends_on"][service]["condition"]
            for other in SERVICES.values()
            if service in other.get("depends_on", {})
        ]
        assert set(waiting) == {"service_completed_successfully"}
    else:
        assert definition["restart"] == "always"
        assert definition["healthcheck"]["test"][0] == "CMD"
        assert definition["stop_grace_period"]


def test_start_order_is_by_health_only():
    for name, service in SERVICES.items():
        for condition in service.get("depends_on", {}).values():
            assert condition["condition"] != "service_started", name


def test_only_the_guard_mounts_the_docker_socket():
    holders = [name for name in SERVICES if "/var/run/docker.sock" in volumes(name)]
    assert holders == ["guard"]
    assert "docker.sock" not in str(INSTANCE)


def test_only_the_webserver_publishes_a_port_and_by_default_on_localhost():
    assert [name for name in SERVICES if "ports" in SERVICES[name]] == ["webserver"]
    assert SERVICES["webserver"]["ports"][0].startswith("${BIND_ADDRESS:-127.0.0.1}:")


def test_the_code_image_holds_no_platform_code_and_the_control_plane_no_user_code():
    copied = {file: re.findall(r"^COPY (?!--from)(.*)", text(file), re.M) for file in
              ("Dockerfile.code", "Dockerfile.dagster")}  # fmt: skip
    assert not any("code_location" in line for line in copied["Dockerfile.dagster"])
    assert [line for line in copied["Dockerfile.code"] if "control_plane" in line] == [
        "control_plane/probe.py /opt/probe.py"
    ]
    assert "dagster-webserver" not in text("requirements/code.txt")


def test_no_file_holds_a_secret():
    """Passwords are generated into volumes; a literal one here would be everybody's."""
    suspicious = re.compile(r"(?i)(password|secret|token)\w*[\"']?\s*[:=]\s*[\"']?[\w+/]{6,}")
    for name in TRACKED:
        if name.startswith(("requirements/", "docs/images/")) or name.endswith(".md"):
            continue
        for line in text(name).splitlines():
            found = suspicious.search(line)
            harmless = "_FILE" in line or "$" in line or "re.compile" in line
            assert not found or harmless or line.lstrip()[0] == "#", f"{name}: {line}"


def test_every_setting_of_the_compose_file_is_described_in_the_example():
    settings = set(re.findall(r"\$\{(\w+):-", text("docker-compose.yml")))
    described = set(re.findall(r"^#?(\w+)=", text(".env.example"), re.M))
    assert settings - {"VERSION", "REVISION"} <= described
    for name, default in re.findall(
        r"\$\{(STACK_NAME|HTTP_PORT|BIND_ADDRESS):-([^}]+)\}", text("docker-compose.yml")
    ):
        assert f"#{name}={default}\n" in text(".env.example")


def test_the_readme_names_every_verb_of_the_makefile():
    verbs = re.findall(r"^([a-z]+):.*##", text("Makefile"), re.M)
    assert "demo" in verbs
    for verb in verbs:
        assert f"make {verb}" in text("README.md"), verb
