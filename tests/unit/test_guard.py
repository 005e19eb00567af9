"""The guard: what the launcher asks for passes, and nothing else does, however it is written."""

import asyncio
import gzip
import json
import re
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import ANY
from urllib.parse import parse_qs, urlsplit

import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings

from control_plane.guard import server
from control_plane.guard.policy import (
    COMMANDS,
    INSPECTED,
    MAX_BODY_BYTES,
    RESOURCES,
    Malformed,
    Policy,
    PolicyError,
    Refused,
)
from control_plane.guard.server import MAX_CONNECTIONS, Engine, Runs, listen, listeners
from support.create_request import LAUNCHER, RUN, launcher_request, mutated, mutations

ENVIRONMENT = {"STACK_NAME": "blue"}
IMAGE, IMAGE_ID = "blue-code:current", "sha256:" + "1" * 64


@pytest.fixture
def policy():
    return Policy.from_launcher(LAUNCHER, ENVIRONMENT).of("code_location")


@pytest.fixture
def asked():
    return launcher_request("blue", IMAGE)


def rebuilt(policy, asked):
    return policy.rebuild(json.dumps(asked).encode())


def test_what_the_launcher_asks_for_is_what_dagster_yaml_says(policy, asked):
    body = rebuilt(policy, asked)
    assert body["Image"] == IMAGE
    assert body["Cmd"] == ["dagster", "api", "execute_run", "{}"]
    assert body["HostConfig"] == asked["HostConfig"]
    assert body["Labels"] == asked["Labels"]
    assert body["NetworkingConfig"] == {"EndpointsConfig": {"blue_runs": {}}}
    assert set(body) == {"Image", "Cmd", "Env", "Labels", "HostConfig", "NetworkingConfig"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("Image", ["alpine"]),
        ("Image", None),
        ("Entrypoint", ["sh"]),
        ("User", "0"),
        ("Cmd", ["sh", "-c", "id"]),
        ("Cmd", ["dagster", "api", "execute_run"]),
        ("Cmd", ["dagster", "api", "grpc", "{}"]),
        ("Cmd", "dagster api execute_run {}"),
        ("Env", ["DAGSTER_RUN_JOB_NAME=x", "PGPASSFILE=/etc/shadow"]),
        ("Env", ["LD_PRELOAD=/tmp/x.so"]),
        ("Env", [["DAGSTER_RUN_JOB_NAME"]]),
        ("Env", {"LD_PRELOAD": "x"}),
        ("WorkingDir", "/"),
        ("Healthcheck", {"Test": ["CMD", "id"]}),
        ("Volumes", {"/etc": {}}),
        ("ExposedPorts", {"22/tcp": {}}),
        ("NetworkingConfig", {"host": None}),
        ("NetworkingConfig", {"EndpointsConfig": {"blue_code": {}}}),
        ("Labels", {"dagster/run_id": RUN, "dagster/job_name": "x"}),
        ("Labels", {"dagster/stack": "red", "dagster/run_id": RUN, "dagster/job_name": "x"}),
        ("Labels", {"dagster/stack": "blue", "dagster/run_id": "../x", "dagster/job_name": "x"}),
        ("Labels", {"dagster/stack": "blue", "dagster/run_id": RUN, "dagster/job_name": "x" * 300}),
        ("Labels", ["dagster/stack"]),
        ("Runtime", "sysbox"),
        ("Invented", 1),
    ],
)
def test_another_value_of_a_field_is_refused(policy, asked, field, value):
    with pytest.raises(Refused):
        rebuilt(policy, {**asked, field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("Privileged", True),
        ("Privileged", "true"),
        ("PidMode", "host"),
        ("IpcMode", "host"),
        ("UTSMode", "host"),
        ("UsernsMode", "host"),
        ("CgroupnsMode", "host"),
        ("NetworkMode", "host"),
        ("NetworkMode", "container:guard"),
        ("Binds", ["/:/host"]),
        ("Binds", None),
        ("Mounts", [{"Type": "bind", "Source": "/", "Target": "/host"}]),
        ("VolumesFrom", ["dagster-guard-1"]),
        ("Devices", [{"PathOnHost": "/dev/sda", "PathInContainer": "/dev/sda"}]),
        ("DeviceCgroupRules", ["a *:* rwm"]),
        ("CapAdd", ["SYS_ADMIN"]),
        ("CapDrop", []),
        ("SecurityOpt", ["seccomp=unconfined"]),
        ("SecurityOpt", []),
        ("Memory", 0),
        ("PidsLimit", -1),
        ("PortBindings", {"80/tcp": [{"HostPort": "80"}]}),
        ("PublishAllPorts", True),
        ("ExtraHosts", ["postgres:10.0.0.1"]),
        ("Dns", ["10.0.0.1"]),
        ("Sysctls", {"net.ipv4.ip_forward": "1"}),
        ("RestartPolicy", {"Name": "always"}),
        ("AutoRemove", True),
        ("Runtime", "runc2"),
        ("CgroupParent", "/"),
        ("LogConfig", {"Type": "syslog", "Config": {"syslog-address": "udp://10.0.0.1"}}),
        ("Init", False),
        ("OomScoreAdj", -1000),
    ],
)
def test_another_host_configuration_is_refused(policy, asked, field, value):
    with pytest.raises(Refused, match=re.escape(f"HostConfig.{field}")):
        rebuilt(policy, {**asked, "HostConfig": {**asked["HostConfig"], field: value}})


@pytest.mark.parametrize("name", RESOURCES)
def test_a_run_may_ask_for_less_than_dagster_yaml_has_and_not_for_more(policy, asked, name):
    most = policy.host[name]

    def given(value):
        return rebuilt(policy, {**asked, "HostConfig": {**asked["HostConfig"], name: value}})

    for value in (1, most - 1, most):
        assert given(value)["HostConfig"] == {**policy.host, name: value}
    for value in (most + 1, 0, -1, None, True, str(most), float(most), [most], 10**30):
        with pytest.raises(Refused, match=f"HostConfig.{name}: dagster.yaml allows at most {most}"):
            given(value)


def test_a_resource_without_a_limit_in_dagster_yaml_is_not_for_runs_to_set(asked):
    kwargs = {k: v for k, v in LAUNCHER["container_kwargs"].items() if k != "pids_limit"}
    policy = Policy.from_launcher({**LAUNCHER, "container_kwargs": kwargs}, ENVIRONMENT).of(
        "code_location"
    )
    with pytest.raises(Refused, match=r"HostConfig\.PidsLimit differs"):
        rebuilt(policy, asked)
    asked["HostConfig"].pop("PidsLimit")
    assert "PidsLimit" not in rebuilt(policy, asked)["HostConfig"]


@pytest.mark.parametrize("case", [str.lower, str.upper, lambda name: name.replace("s", "\u017f")])
def test_a_name_in_other_letters_is_refused_though_the_engine_would_read_it(policy, asked, case):
    """Go's decoder takes any case, and the long s for an s."""
    for name, value in (("Privileged", True), ("Binds", ["/:/host"]), ("UsernsMode", "host")):
        if case(name) != name:
            host = {**asked["HostConfig"], case(name): value}
            with pytest.raises(Refused):
                rebuilt(policy, {**asked, "HostConfig": host})
    if case("HostConfig") != "HostConfig":
        with pytest.raises(Refused):
            rebuilt(policy, {**asked, case("HostConfig"): {"Privileged": True}})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b'"x"',
        b"{",
        b'{"Image": "blue-code:current"} {"HostConfig": {"Privileged": true}}',
        b'{"HostConfig": {}, "HostConfig": {"Privileged": true}}',
        b'{"Labels": {"a": "b", "\\u0061": "c"}}',
        b'{"Memory": NaN}',
        b'{"Memory": Infinity}',
        b"\xff\xfe{}",
        b'{"a":' * 2000 + b"1" + b"}" * 2000,
        b'{"a":' * 20 + b"1" + b"}" * 20,
        b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"a":' + b"[" * 60_000 + b"]" * 60_000 + b"}",
        b'{"a":' + b"[" * 60_000,
        b" " * (MAX_BODY_BYTES + 1) + b"{}",
    ],
    ids=range(17),
)
def test_json_that_parsers_read_differently_is_refused_as_malformed(policy, body):
    with pytest.raises(Malformed):
        policy.rebuild(body)
    ((status, text),), reached = run(policy, DAEMON, line("POST", CREATE, body))
    assert status == 400
    assert "guard: refused" in text
    assert reached == []


def test_a_field_name_with_escapes_is_decoded_before_it_is_checked(policy, asked):
    """Parsed, not searched for: `\\u0050rivileged` is Privileged."""
    text = json.dumps(asked).replace('"Init"', '"\\u0050rivileged": true, "Init"')
    with pytest.raises(Refused, match=r"HostConfig\.Privileged"):
        policy.rebuild(text.encode())


def test_a_policy_that_cannot_be_enforced_is_refused_at_start():
    for kwargs in ({"privileged": True}, {"devices": ["/dev/sda"]}, {"ports": {"80": 80}}):
        with pytest.raises(PolicyError, match=next(iter(kwargs))):
            Policy.from_launcher({**LAUNCHER, "container_kwargs": kwargs}, ENVIRONMENT)


@pytest.mark.parametrize("labels", [{}, {"dagster/stack": "green"}, {"dagster/Stack": "blue"}])
def test_a_stack_that_would_take_other_stacks_runs_for_its_own_is_refused(policy, labels):
    policy.refuse_other_stacks("blue")
    with pytest.raises(PolicyError, match=r"dagster/stack must be \$\{STACK_NAME\}"):
        replace(policy, labels=labels).refuse_other_stacks("blue")


def test_an_unset_variable_is_refused_at_start():
    with pytest.raises(PolicyError, match="STACK_NAME"):
        Policy.from_launcher(LAUNCHER, {})


@pytest.mark.parametrize("count", [1_500, pytest.param(20_000, marks=pytest.mark.release)])
def test_no_random_request_gets_a_container_outside_the_policy(policy, asked, count):
    @settings(
        max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(mutation=mutations())
    def holds(mutation):
        try:
            body = rebuilt(policy, mutated(asked, mutation))
        except Refused:
            return
        if body["Image"] != IMAGE:
            return  # refused by the listener: test_no_other_image_is_allowed
        resources = {name: body["HostConfig"][name] for name in RESOURCES}
        assert all(0 < value <= policy.host[name] for name, value in resources.items())
        assert body["HostConfig"] == {**policy.host, **resources}
        assert body["Image"] == IMAGE
        assert body["Cmd"][:3] in COMMANDS
        assert {entry.partition("=")[0] for entry in body["Env"]} <= policy.variables
        assert policy.labels.items() <= body["Labels"].items()
        assert set(body) == {"Image", "Cmd", "Env", "Labels", "HostConfig", "NetworkingConfig"}

    holds()


# --- the listeners, in front of a socket that notes whatever reaches it ---

MINE, OTHER = "a" * 64, "b" * 64
GONE = "sha256:" + "6" * 64
SERVER = "c" * 64
CREATE = "/v1.45/containers/create"


def container(state="running"):
    return {"State": state, "Created": 1, "Labels": {"dagster/run_id": RUN}}


def code_server(identifier=SERVER, service="code_location", **labels):
    labels = {"com.docker.compose.service": service, **labels}
    return {"Id": identifier, "State": "running", "Created": 1, "Labels": labels}


class FakeEngine:
    """Notes whatever reaches it, and answers for the containers that it is told of."""

    def __init__(self):
        self.reached = []
        self.runs = []
        self.servers = [code_server()]
        # What a code server's container is made from: its name for the image, and the ID.
        self.images = {SERVER: (IMAGE, IMAGE_ID)}
        # The labels of images that Compose has built, by ID.
        self.built = {}
        self.log = b"\x01\0\0\0\0\0\0\x02hi"
        # To answer a request to stop only then.
        self.may_stop = None

    async def handle(self, request):
        self.reached.append((request.method, request.raw_path, await request.text()))
        path = request.path
        if path.endswith("/containers/json"):
            wanted = json.loads(request.query["filters"])
            if "com.docker.compose.project=blue" in wanted["label"]:
                assert "com.docker.compose.oneoff=False" in wanted["label"]
                return web.json_response(self.servers)
            if request.query.get("limit"):
                assert wanted["label"] == ["dagster/stack=blue", "dagster/run_id"]
                return web.json_response([{**one, "Id": MINE} for one in self.runs])
            states = wanted["status"]
            return web.json_response([one for one in self.runs if one["State"] in states])
        if path == "/version":
            told = {"Version": "26", "ApiVersion": "1.45", "MinAPIVersion": "1.24", "Os": "linux"}
            return web.json_response(told)
        identifier = path.split("/")[-2]
        if path.endswith("/json") and identifier in self.images:
            name, image = self.images[identifier]
            labels = {"org.opencontainers.image.version": "1.2", "working_dir": "/home/me"}
            config = {"Image": name, "Labels": labels, "Env": ["PASSWORD=1"]}
            return web.json_response({"Image": image, "Config": config})
        if identifier == GONE:
            return web.json_response({"message": "No such image"}, status=404)
        if identifier in self.built:
            return web.json_response({"Config": {"Labels": self.built[identifier]}})
        if path.endswith("/logs"):
            return web.Response(body=self.log)
        if path.endswith("/json"):
            mine = identifier == MINE
            labels = {"dagster/stack": "blue", "dagster/run_id": RUN} if mine else {"x": "y"}
            config = {"Labels": labels, "Env": ["PASSWORD=1"]}
            found = {"Id": MINE, "Image": "i", "State": {}, "Created": "then", "Path": "sh"}
            return web.json_response({**found, "Config": config})
        if path.endswith("/stop") and self.may_stop:
            await self.may_stop.wait()
        return web.json_response({"Id": MINE}, status=201)


def created(reached):
    """The bodies of the requests to create a container."""
    create = "/containers/create?name="
    return [json.loads(body) for _, path, body in reached if path.startswith(create)]


@asynccontextmanager
async def open_listeners(policy, fake, limit=25, locations=("code_location",)):
    """Both listeners in front of an engine; yields their sockets."""
    socket = f"/tmp/guard-test-{id(fake)}.sock"  # noqa: S108 # short enough for a socket
    runner = web.ServerRunner(web.Server(fake.handle))
    await runner.setup()
    await web.UnixSite(runner, socket).start()
    runs = Runs(policy, "blue", locations, limit)
    opened = listeners(socket, runs)
    paths = [Path(f"{socket}.{listener.name}") for listener in opened]
    fronts = [await listen(*pair) for pair in zip(opened, paths, strict=True)]
    yield paths
    for front in fronts:
        await front.cleanup()
    for listener in opened:
        await listener.engine.session.close()
    await runner.cleanup()
    for path in (Path(socket), *paths):
        path.unlink(missing_ok=True)


@asynccontextmanager
async def open_listener(policy, index, fake=None, **options):
    """A listener in front of an engine: its socket, and what reached the engine."""
    fake = fake or FakeEngine()
    async with open_listeners(policy, fake, **options) as paths:
        yield paths[index], fake.reached


async def send(path, request):
    """Sends a raw request; returns status and body of the answer."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(request)
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    length = re.search(rb"Content-Length: (\d+)", head)
    body = await reader.readexactly(int(length[1])) if length else b""
    writer.close()
    return int(head.split()[1]), body.decode(errors="surrogateescape")


async def through(policy, index, requests, **options):
    """Sends raw requests to a listener; returns the answers, and what reached the engine."""
    async with open_listener(policy, index, **options) as (path, reached):
        return [await send(path, request) for request in requests], reached


def line(method, path, body=b"", headers=b""):
    length = f"Content-Length: {len(body)}\r\n".encode()
    return (
        f"{method} {path} HTTP/1.1\r\nHost: guard\r\n".encode() + length + headers + b"\r\n" + body
    )


DAEMON, WEBSERVER = 0, 1
PATH = f"/v1.45/containers/{MINE}"
LIST_RUNS = "/v1.45/containers/json?limit=200&all=1&size=0&trunc_cmd=0"
REMOVE = "?v=True&link=False&force=False"
LAST_LINES = "logs?stderr=1&stdout=1&timestamps=0&follow=0&tail=50"


def run(policy, listener, *requests, **options):
    return asyncio.run(through(policy, listener, requests, **options))


def test_the_daemon_s_listener_accepts_all_calls_of_a_run_s_life(policy, asked):
    body = json.dumps(asked).encode()
    statuses, _ = run(
        policy, DAEMON,
        line("GET", "/version"), line("POST", CREATE, body),
        line("GET", f"{PATH}/json"), line("POST", f"{PATH}/start"),
        line("GET", f"{PATH}/{LAST_LINES}"), line("POST", f"{PATH}/stop?t=30"),
        line("GET", LIST_RUNS), line("DELETE", f"{PATH}{REMOVE}"),
    )  # fmt: skip
    assert [status for status, _ in statuses] == [200, 201, 200, 201, 200, 201, 200, 201]
    assert statuses[4][1].endswith("hi")


def test_the_web_server_s_listener_accepts_only_inspect_and_stop(policy, asked):
    body = json.dumps(asked).encode()
    statuses, reached = run(
        policy, WEBSERVER,
        line("GET", f"{PATH}/json"), line("POST", f"{PATH}/stop"),
        line("POST", CREATE, body), line("POST", f"{PATH}/start"),
        line("GET", f"{PATH}/{LAST_LINES}"), line("GET", LIST_RUNS),
        line("DELETE", f"{PATH}{REMOVE}"),
    )  # fmt: skip
    assert [status for status, _ in statuses] == [200, 201, 403, 403, 403, 403, 403]
    assert [path for _, path, _ in reached] == [
        f"/containers/{MINE}/json", f"/containers/{MINE}/json", f"/containers/{MINE}/stop?t=10",
    ]  # fmt: skip


@pytest.mark.parametrize(("seconds", "times"), [(30, 1), (0, 3)])
def test_the_engine_is_asked_for_its_version_now_and_then(policy, monkeypatch, seconds, times):
    monkeypatch.setattr(server, "VERSION_SECONDS", seconds)
    statuses, reached = run(policy, DAEMON, *[line("GET", "/version")] * 3)
    told = {"Version": "26", "ApiVersion": "1.45", "MinAPIVersion": "1.24"}
    assert [(status, json.loads(body)) for status, body in statuses] == [(200, told)] * 3
    assert len(reached) == times


def test_inspecting_shows_no_environment(policy):
    ((_, body),), _ = run(policy, DAEMON, line("GET", f"{PATH}/json"))
    answer = json.loads(body)
    assert set(answer) == {*INSPECTED, "Config"}
    assert set(answer["Config"]) == {"Tty"}


def test_a_container_that_is_not_a_run_of_this_stack_is_not_there(policy):
    other = f"/v1.45/containers/{OTHER}"
    statuses, reached = run(
        policy, DAEMON, *(line("POST", f"{other}/{verb}") for verb in ("start", "stop")),
        line("GET", f"{other}/json"), line("GET", f"{other}/{LAST_LINES}"),
        line("DELETE", f"{other}{REMOVE}"),
    )  # fmt: skip
    assert {status for status, _ in statuses} == {404}
    assert {method for method, _, _ in reached} == {"GET"}


@pytest.mark.parametrize(
    "path",
    [
        "/v1.45/containers/json",
        "/v1.45/containers/json?limit=-1&all=1&size=1&trunc_cmd=0",
        f"{LIST_RUNS}&before=x",
        f"{PATH}?v=True&link=False&force=True",
        f"{PATH}/logs",
        f"{PATH}/{LAST_LINES}00",
        f"{PATH}/{LAST_LINES.replace('follow=0', 'follow=1')}",
        "/containers/create",
        "/v1.45/containers/create?name=x",
        "/v1.45/containers/create/",
        "/v1.45/../v1.45/containers/create",
        "/v1.45/containers//create",
        "/v1.45/containers/%63reate",
        "/v1.45/containers/create%3f",
        f"{PATH}/exec",
        f"{PATH}/attach",
        f"{PATH}/stop?t=1&signal=9",
        f"{PATH}/../{OTHER}/stop",
        "/v1.45/images/create?fromImage=alpine",
        "/v1.45/build",
        "/v1.45/volumes/create",
        "/info",
        "http://other/v1.45/containers/create",
    ],
)
def test_any_other_path_is_refused_and_never_reaches_the_engine(policy, asked, path):
    body = json.dumps(asked).encode()
    asks = [line(method, path, body) for method in ("POST", "GET", "DELETE")]
    statuses, reached = run(policy, DAEMON, *asks)
    assert [status for status, _ in statuses] == [403] * 3
    assert all("guard: refused" in text for _, text in statuses)
    assert reached == []


def test_upgrades_are_refused_and_no_header_reaches_the_engine(policy):
    upgrade = b"Connection: Upgrade\r\nUpgrade: tcp\r\n"
    ((status, _),), reached = run(policy, DAEMON, line("GET", "/version", headers=upgrade))
    assert (status, reached) == (403, [])


def test_a_body_in_chunks_is_held_to_the_same_policy(policy, asked):
    bad = json.dumps({**asked, "User": "0"}).encode()
    chunked = f"{len(bad):x}\r\n".encode() + bad + b"\r\n0\r\n\r\n"
    head = (
        b"POST /v1.45/containers/create HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    ((status, body),), reached = run(policy, DAEMON, head + chunked)
    assert (status, reached) == (403, [])
    assert "User" in body


def engine_with(**attributes):
    fake = FakeEngine()
    vars(fake).update(attributes)
    return fake


def create_line(asked, **changed):
    return line("POST", CREATE, json.dumps({**asked, **changed}).encode())


@pytest.mark.parametrize("state", ["running", "paused", "restarting"])
def test_no_more_run_containers_than_the_limit_are_made(policy, asked, state):
    fake = engine_with(runs=[container(state)] * 2)
    ((status, body),), reached = run(policy, DAEMON, create_line(asked), limit=2, fake=fake)
    assert status == 403
    assert "2 run containers are alive, 2 may be" in body
    assert not created(reached)


def test_run_containers_that_ended_or_were_never_started_do_not_count(policy, asked):
    fake = engine_with(runs=[container("exited")] * 9 + [container("created")] * 9)
    ((status, _),), _ = run(policy, DAEMON, create_line(asked), limit=2, fake=fake)
    assert status == 201


def test_no_more_run_containers_than_the_limit_are_started(policy):
    """However many were made before."""
    start = line("POST", f"{PATH}/start")
    few = engine_with(runs=[container()] + [container("created")] * 30)
    ((status, _),), _ = run(policy, DAEMON, start, limit=2, fake=few)
    assert status == 201
    many = engine_with(runs=[container()] * 2)
    ((status, body),), reached = run(policy, DAEMON, start, limit=2, fake=many)
    assert status == 403
    assert "2 run containers are alive, 2 may be" in body
    assert not [path for _, path, _ in reached if path.endswith("/start")]


def engine_that_starts(after=0):
    """An engine with one more run container after each start, which takes some seconds."""
    fake = FakeEngine()
    answer = fake.handle

    async def handle(request):
        if request.path.endswith("/start"):
            await asyncio.sleep(after)
            fake.runs.append(container())
        return await answer(request)

    fake.handle = handle
    return fake


def test_of_many_starts_at_once_no_more_than_the_limit_reach_the_engine(policy):
    fake = engine_that_starts()

    async def attempt():
        async with open_listener(policy, DAEMON, limit=5, fake=fake) as (path, _):
            start = line("POST", f"{PATH}/start")
            return await asyncio.gather(*(send(path, start) for _ in range(31)))

    statuses = [status for status, _ in asyncio.run(attempt())]
    assert (statuses.count(201), statuses.count(403)) == (5, 26)


def test_a_start_counts_although_its_client_hangs_up(policy):
    """The engine goes on with a start when the guard's client has gone."""
    fake = engine_that_starts(after=0.05)

    async def attempt():
        async with open_listener(policy, DAEMON, limit=5, fake=fake) as (path, _):
            start = line("POST", f"{PATH}/start")
            for _ in range(31):
                ((_, writer),) = await connected(path, 1, start)
                await asyncio.sleep(0.02)
                writer.close()
            status, _ = await send(path, start)
            return status

    assert asyncio.run(attempt()) == 403
    assert len(fake.runs) == 5


# --- which images ---


def test_a_run_container_is_made_from_the_image_that_its_code_server_runs(policy, asked):
    """Also when the tag has moved since: the name stands for the ID of the server's image."""
    for image in (IMAGE, IMAGE_ID):
        ((status, _),), reached = run(policy, DAEMON, create_line(asked, Image=image))
        assert status == 201
        assert [body["Image"] for body in created(reached)] == [IMAGE_ID]


@pytest.mark.parametrize(
    ("servers", "image"),
    [
        ([code_server()], "blue-postgres:current"),
        ([code_server()], "sha256:" + "2" * 64),
        ([code_server()], IMAGE_ID[:20]),
        ([code_server(service="webserver")], IMAGE),
        ([code_server(**{"dagster/run_id": RUN})], IMAGE),
        ([], IMAGE),
    ],
)
def test_no_other_image_is_allowed(policy, asked, servers, image):
    fake = engine_with(servers=servers)
    ((status, body),), reached = run(policy, DAEMON, create_line(asked, Image=image), fake=fake)
    assert status == 403
    assert "is not one that a code location runs" in body
    assert not created(reached)


EARLIER = "sha256:" + "5" * 64


@pytest.mark.parametrize(
    ("project", "service", "image", "allowed"),
    [
        ("blue", "code_location", EARLIER, True),
        ("green", "code_location", EARLIER, False),
        ("blue", "postgres", EARLIER, False),
        ("blue", "code_location", "blue-code@" + EARLIER, False),
        ("blue", "code_location", EARLIER + "/json?x", False),
    ],
)
def test_an_earlier_image_is_allowed_that_was_built_for_the_run_s_location(
    policy, asked, project, service, image, allowed
):
    fake = engine_with(servers=[code_server()])
    labels = {"com.docker.compose.project": project, "com.docker.compose.service": service}
    fake.built[EARLIER] = labels
    ((status, _),), reached = run(policy, DAEMON, create_line(asked, Image=image), fake=fake)
    assert status == (201 if allowed else 403)
    assert [body["Image"] for body in created(reached)] == ([EARLIER] if allowed else [])


def test_an_image_that_has_been_deleted_is_named_as_that(policy, asked):
    fake = engine_with(servers=[code_server()])
    ((status, body),), reached = run(policy, DAEMON, create_line(asked, Image=GONE), fake=fake)
    assert status == 403
    assert "the run's image is not on this machine any more" in body
    assert not created(reached)


def test_the_list_of_run_containers_shows_no_command_and_comes_in_pages(policy):
    fake = engine_with(runs=[{**container("exited"), "Command": "dagster api", "Image": "i"}])
    asks = line("GET", LIST_RUNS), line("GET", f"{LIST_RUNS}&before={MINE}")
    ((_, first), (status, _)), reached = run(policy, DAEMON, *asks, fake=fake)
    labels = {"dagster/run_id": RUN}
    shown = {"Id": MINE, "State": "exited", "Created": 1, "Labels": labels}
    assert json.loads(first) == [shown]
    assert status == 200
    filters = [json.loads(parse_qs(urlsplit(path).query)["filters"][0]) for _, path, _ in reached]
    assert [one["before"] for one in filters] == [[], [MINE]]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ([b"a\n", b"b\n"], [b"a\n", b"b\n"]),
        ([b"x" * 200_000, b"y" * 100_000, b"end\n"], [b"y" * 100_000, b"end\n"]),
        ([b"x" * 300_000], []),
    ],
)
def test_of_a_long_log_the_end_is_read_in_whole_frames(policy, written, read):
    frames = [b"\x01\0\0\0" + len(one).to_bytes(4) + one for one in written]
    ((status, body),), _ = run(
        policy, DAEMON, line("GET", f"{PATH}/{LAST_LINES}"), fake=engine_with(log=b"".join(frames))
    )
    assert status == 200
    assert body.encode(errors="surrogateescape") == b"".join(frames[len(written) - len(read) :])


@pytest.mark.parametrize("listener", [DAEMON, WEBSERVER])
def test_both_listeners_say_which_image_each_code_server_runs_and_nothing_else(policy, listener):
    asked = line("GET", "/v1.45/containers/json?limit=-1&all=0&size=0&trunc_cmd=0")
    ((status, body),), _ = run(policy, listener, asked)
    assert status == 200
    (server,) = json.loads(body)
    assert server == {
        "Id": SERVER,
        "ImageID": IMAGE_ID,
        "Labels": {"org.opencontainers.image.version": "1.2"},
    }


@pytest.mark.parametrize(("same", "allowed"), [(False, False), (True, True)])
def test_a_run_has_the_volumes_of_its_own_code_location_only(same, allowed):
    """Another location's image is refused with them, unless both locations run that image."""
    policy = Policy.from_launcher(LAUNCHER, ENVIRONMENT)
    fake, other = FakeEngine(), "d" * 64
    fake.servers.append(code_server(other, service="finance"))
    fake.images[other] = (
        (IMAGE, IMAGE_ID) if same else ("blue-finance:current", "sha256:" + "4" * 64)
    )
    asked = launcher_request("blue", IMAGE, location="finance")
    locations = ("code_location", "finance")
    ((status, _),), reached = run(
        policy, DAEMON, create_line(asked), fake=fake, locations=locations
    )
    assert status == (201 if allowed else 403)
    assert len(created(reached)) == (1 if allowed else 0)


def test_what_a_code_server_ran_last_holds_until_a_new_one_runs(policy, asked):
    """During a deploy there is no container for a moment; the old image is not allowed later."""
    fake = FakeEngine()
    new = "sha256:" + "3" * 64

    async def attempt():
        async with open_listener(policy, DAEMON, fake=fake) as (path, _):
            await send(path, create_line(asked))
            fake.servers = []
            await send(path, create_line(asked))
            # A new one that does not run yet, beside the old one.
            fake.images["d" * 64] = IMAGE, new
            starting = {**code_server("d" * 64), "State": "created", "Created": 2}
            fake.servers = [code_server(), starting]
            await send(path, create_line(asked))
            starting["State"] = "running"
            await send(path, create_line(asked))
            return await send(path, create_line(asked, Image=IMAGE_ID))

    status, _ = asyncio.run(attempt())
    images = [body["Image"] for body in created(fake.reached)]
    assert images == [IMAGE_ID, IMAGE_ID, IMAGE_ID, new]
    assert status == 403


# --- stopping ---


@pytest.mark.parametrize("listener", [DAEMON, WEBSERVER])
def test_a_request_to_stop_waits_no_longer_than_dagster_yaml_says(policy, listener):
    most = LAUNCHER["container_kwargs"]["stop_timeout"]
    for seconds, expected in ((0, 201), (most, 201), (most + 1, 403), (9999, 403)):
        stop = line("POST", f"{PATH}/stop?t={seconds}")
        ((status, _),), reached = run(policy, listener, stop)
        stopped = [path for _, path, _ in reached if "/stop" in path]
        assert status == expected
        assert stopped == ([f"/containers/{MINE}/stop?t={seconds}"] if status == 201 else [])


def test_a_client_that_hangs_up_during_a_stop_does_not_block_others(policy, asked):
    async def attempt():
        fake = engine_with(may_stop=asyncio.Event())
        async with open_listeners(policy, fake) as paths:
            stop = line("POST", f"{PATH}/stop?t=30")
            for n in range(130):
                ((_, writer),) = await connected(paths[n % 2], 1, stop)
                while len([p for _, p, _ in fake.reached if "/stop" in p]) <= n:
                    await asyncio.sleep(0.01)
                writer.close()
            answers = [await send(paths[DAEMON], create_line(asked))]
            answers += [await send(path, line("GET", f"{PATH}/json")) for path in paths]
            fake.may_stop.set()
            return answers

    assert [status for status, _ in asyncio.run(attempt())] == [201, 200, 200]


def test_waiting_requests_of_one_listener_take_no_connection_from_the_other(policy, asked):
    async def attempt():
        fake = engine_with(may_stop=asyncio.Event())
        async with open_listeners(policy, fake) as paths:
            stop = line("POST", f"{PATH}/stop?t=30")
            waiting = await connected(paths[WEBSERVER], MAX_CONNECTIONS, stop)
            while len([p for _, p, _ in fake.reached if "/stop" in p]) < MAX_CONNECTIONS:
                await asyncio.sleep(0.01)
            answer = await send(paths[DAEMON], create_line(asked))
            fake.may_stop.set()
            for _, writer in waiting:
                writer.close()
            return answer

    assert asyncio.run(attempt())[0] == 201


def test_an_engine_that_does_not_answer_is_named(policy, tmp_path):
    async def attempt():
        opened = listeners("/nowhere.sock", Runs(policy, "blue", [], 1))
        runner = await listen(opened[0], tmp_path / "guard.sock")
        answer = await send(tmp_path / "guard.sock", line("GET", "/version"))
        await runner.cleanup()
        for listener in opened:
            await listener.engine.session.close()
        return answer

    status, text = asyncio.run(attempt())
    assert status == 502
    assert "the Docker engine" in text


# --- clients that are slow, or many ---

HALF = b"GET /version HTTP/1.1\r\nHost: g"
HALF_A_BODY = b"POST /v1.45/containers/create HTTP/1.1\r\nHost: g\r\nContent-Length: 99\r\n\r\n{"


async def connected(path, count, sent=b""):
    """Connections that have sent something, and wait."""
    made = [await asyncio.open_unix_connection(path) for _ in range(count)]
    for _, writer in made:
        writer.write(sent)
    return made


async def gone(connection):
    """Whether the other end closes a connection within seconds; what it says goes unread."""
    try:
        await asyncio.wait_for(connection[0].read(), 5)
    except ConnectionError:
        pass
    except TimeoutError:
        return False
    return True


@pytest.mark.parametrize("sent", [b"", HALF, HALF_A_BODY], ids=["nothing", "a head", "a body"])
def test_a_connection_that_does_not_deliver_a_request_is_closed(policy, monkeypatch, sent):
    monkeypatch.setattr(server, "REQUEST_SECONDS", 0.2)

    async def attempt():
        async with open_listener(policy, DAEMON) as (path, _):
            return await gone(*await connected(path, 1, sent))

    assert asyncio.run(attempt())


@pytest.mark.parametrize("sent", [b"", HALF, HALF_A_BODY], ids=["nothing", "a head", "a body"])
def test_waiting_connections_give_way_to_newer_ones(policy, monkeypatch, sent):
    monkeypatch.setattr(server, "REQUEST_SECONDS", 60)

    async def attempt():
        async with open_listener(policy, DAEMON) as (path, _):
            # One that has left is not looked for again.
            ((_, left),) = await connected(path, 1)
            left.close()
            waiting = await connected(path, 3 * MAX_CONNECTIONS, sent)
            assert await send(path, line("GET", "/version")) == (200, ANY)
            assert all([await gone(one) for one in waiting[: 2 * MAX_CONNECTIONS]])
            # Room was made for one.
            kept = waiting[-MAX_CONNECTIONS + 1 :]
            assert not any(reader.at_eof() for reader, _ in kept)
            for _, writer in kept:
                writer.close()

    asyncio.run(attempt())


def test_a_request_that_the_engine_works_on_does_not_give_way(policy, monkeypatch):
    release, entered = asyncio.Event(), asyncio.Event()

    async def slow(self, _, __):
        entered.set()
        await release.wait()
        return 200, {"slow": True}

    monkeypatch.setattr(Engine, "version", slow)

    async def attempt():
        async with open_listener(policy, DAEMON) as (path, _):
            answer = asyncio.create_task(send(path, line("GET", "/version")))
            await entered.wait()
            waiting = await connected(path, 2 * MAX_CONNECTIONS)
            assert await gone(waiting[0])
            release.set()
            return await answer

    assert asyncio.run(attempt()) == (200, '{"slow": true}')


@pytest.mark.parametrize(
    "request_",
    [
        line("GET", "/" + "a" * 2000),
        line("GET", "/version", headers=b"A: " + b"a" * 2000 + b"\r\n"),
        line("GET", "/version", headers=b"A: a\r\n" * 40),
        b"\x16\x03\x01 no HTTP at all\r\n\r\n",
    ],
    ids=["path", "header", "headers", "garbage"],
)
def test_a_head_that_is_too_large_or_none_is_answered_with_400_and_no_traceback(
    policy, request_, caplog
):
    ((status, _),), reached = run(policy, DAEMON, request_)
    assert (status, reached) == (400, [])
    assert len(caplog.text.splitlines()) <= 1


def test_a_compressed_body_is_refused(policy, asked):
    body = gzip.compress(json.dumps(asked).encode())
    request = line("POST", CREATE, body, b"Content-Encoding: gzip\r\n")
    ((status, text),), reached = run(policy, DAEMON, request)
    assert (status, reached) == (400, [])
    assert "not plain JSON" in text


def test_a_connection_is_good_for_one_request(policy):
    statuses, reached = run(policy, DAEMON, line("GET", f"{PATH}/json") * 5)
    assert [status for status, _ in statuses] == [200]
    assert len(reached) == 1
