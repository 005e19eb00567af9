"""The guard's two listeners: which Docker API calls each accepts.

The launch listener, for the daemon, creates, starts, inspects, stops and lists run containers,
reads their last lines, and removes those that have ended. The stop listener, for the web server,
inspects and stops them. Both say which images the code servers run. Each is a Unix socket on its
own volume, which only its client mounts. A path must match as a whole, undecoded. The guard
forwards only the checked body to the engine, never a header. A connection serves one request, which
must arrive within seconds. When a listener has too many connections, new ones replace the oldest
waiting ones.
"""

import asyncio
import json
import logging
import re
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from aiohttp import (
    ClientError,
    ClientSession,
    ClientTimeout,
    DummyCookieJar,
    StreamReader,
    UnixConnector,
    web,
)
from aiohttp.http import HttpProcessingError

from control_plane.guard.policy import (
    ALIVE,
    DOCKER_STOP_SECONDS,
    INSPECTED,
    JOB_LABEL,
    MAX_BODY_BYTES,
    RUN_LABEL,
    TOO_MANY,
    Policy,
    Refused,
)

ENGINE_TIMEOUT_SECONDS = 60
# Every client first asks for the version, which takes the engine 10 ms, much longer than to inspect
# a container. Shorter than the interval of the health check, which asks for the version as well.
VERSION_SECONDS = 30
# The time limit for a request's head, and again for its body. The launcher sends both at once.
REQUEST_SECONDS = 5
# On one listener. The daemon and the web server need a few at a time.
MAX_CONNECTIONS = 64
# Of a container's last lines. A line can be of any length.
MAX_LOG_BYTES = 256 * 1024
# Far below MAX_CONNECTIONS, so that a new connection has its turn before a burst of later ones
# could push it out. The rest wait in the kernel's queue, which is as long as the kernel allows.
ACCEPTED_AT_ONCE, QUEUED = 8, 4096
CONTAINER = r"/v1\.\d{2}/containers/(?P<id>[0-9a-f]{64})"
VERSION, CREATE = re.compile(r"/version"), re.compile(r"/v1\.\d{2}/containers/create")
INSPECT, START = re.compile(rf"{CONTAINER}/json"), re.compile(rf"{CONTAINER}/start")
# A page of the list, and the one after it: those that were created before the last container on it.
LIST_RUNS = re.compile(
    r"/v1\.\d{2}/containers/json\?limit=200&all=1&size=0&trunc_cmd=0(&before=(?P<last>[0-9a-f]{64}))?"
)
REMOVE = re.compile(rf"{CONTAINER}\?v=True&link=False&force=False")
LOGS = re.compile(rf"{CONTAINER}/logs\?stderr=1&stdout=1&timestamps=0&follow=0&tail=50")
STOP = re.compile(rf"{CONTAINER}/stop(\?t=(?P<seconds>\d{{1,4}}))?")
LIST = re.compile(r"/v1\.\d{2}/containers/json\?limit=-1&all=0&size=0&trunc_cmd=0")
PULL = re.compile(r"/v1\.\d{2}/images/create.*")

IMAGE_ID = re.compile(r"sha256:[0-9a-f]{64}")
# Compose sets these labels on containers, and on images that it builds, whatever their Dockerfile
# says.
PROJECT_LABEL, SERVICE_LABEL = "com.docker.compose.project", "com.docker.compose.service"
# The labels that the daemon and the web server may see. Others name folders of the host.
SHOWN = (SERVICE_LABEL, "org.opencontainers.image.")

Answer = tuple[int, Any]


@dataclass(frozen=True)
class CodeServer:
    """The container that serves a code location.

    Attributes:
        container: Its ID.
        name: The name of its image when it was created. The name may have moved since.
        image: The ID of its image.
        labels: Its labels.
    """

    container: str
    name: str
    image: str
    labels: Mapping[str, str]


class Runs:
    """What the listeners share: this stack's run containers, and the images for them."""

    def __init__(self, policy: Policy, project: str, locations: Iterable[str], limit: int) -> None:
        """Asks the engine nothing yet.

        Args:
            policy: What a run container is.
            project: The Compose project.
            locations: Its services that are code locations.
            limit: How many run containers may be alive at once.
        """
        self.policy = policy
        self.project = project
        self.locations = frozenset(locations)
        self.limit = limit
        # Held from counting the containers until the engine has answered the start.
        self.starting = asyncio.Lock()
        # Held while a page of the list of containers is read.
        self.listing = asyncio.Lock()
        # By code location. An entry stays while a deploy replaces the container, about a second.
        self.servers: dict[str, CodeServer] = {}


class Engine:
    """The Docker engine, for one of the guard's listeners."""

    def __init__(self, path: str, runs: Runs) -> None:
        """Does not connect yet.

        Args:
            path: The engine's socket.
            runs: What the listeners share.
        """
        self.session = ClientSession(
            "http://engine",
            # No limit: waiting requests must not block others. The listener limits their number.
            connector=UnixConnector(path, limit=0),
            cookie_jar=DummyCookieJar(),
        )
        self.runs = runs
        self.known_version: dict[str, str] = {}
        self.version_read_at = 0.0

    async def ask(
        self, method: str, path: str, body: object = None, wait: int = 0, **query: str
    ) -> Answer:
        """Calls the engine; returns the status and the JSON of the response, if any.

        Args:
            method: GET, POST or DELETE.
            path: Without the API's version.
            body: What to send, as JSON.
            wait: The seconds that the engine may need beyond the usual timeout.
            query: The query parameters.
        """
        timeout = ClientTimeout(total=ENGINE_TIMEOUT_SECONDS + wait)
        async with self.session.request(
            method, path, json=body, params=query, timeout=timeout
        ) as response:
            text = await response.text()
            return response.status, json.loads(text) if text.strip() else None

    async def version(self, _: re.Match[str], __: bytes) -> Answer:
        """The versions from which a client chooses an API version."""
        if not self.known_version or monotonic() - self.version_read_at > VERSION_SECONDS:
            found = (await self.ask("GET", "/version"))[1]
            self.known_version = {
                name: found[name] for name in ("Version", "ApiVersion", "MinAPIVersion")
            }
            self.version_read_at = monotonic()
        return 200, self.known_version

    async def find_run_container(self, identifier: str) -> dict[str, Any]:
        """A run container of this stack, reduced to the fields that the launcher reads.

        Raises:
            Missing: No container has this ID, or it is not a run container of this stack.
        """
        status, found = await self.ask("GET", f"/containers/{identifier}/json")
        if status != 200:
            raise Missing(found)
        labels: dict[str, str] = found["Config"]["Labels"] or {}
        ours = self.runs.policy.labels.items()
        if RUN_LABEL not in labels or any(labels.get(name) != value for name, value in ours):
            raise Missing({"message": f"No such container: {identifier}"})
        # The SDK reads Tty before it reads the log.
        config = {"Tty": False}
        return {**{name: found[name] for name in INSPECTED}, "Config": config}

    async def inspect(self, path: re.Match[str], _: bytes) -> Answer:
        """State and image of a run container, without its environment."""
        return 200, await self.find_run_container(path["id"])

    async def logs(self, path: re.Match[str], _: bytes) -> Answer:
        """The last lines that a run container wrote, in the engine's frames."""
        await self.find_run_container(path["id"])
        query = {"stderr": "1", "stdout": "1", "tail": "50"}
        where, timeout = f"/containers/{path['id']}/logs", ClientTimeout(ENGINE_TIMEOUT_SECONDS)
        async with self.session.get(where, params=query, timeout=timeout) as response:
            return response.status, await _last_frames(response.content)

    async def containers(
        self, labels: Mapping[str, str], states: Sequence[str] = ()
    ) -> list[dict[str, Any]]:
        """The engine's list of containers with these labels, in these states or in any."""
        wanted = {"label": [f"{k}={v}" for k, v in labels.items()], "status": list(states)}
        filters = json.dumps(wanted)
        status, found = await self.ask("GET", "/containers/json", all="true", filters=filters)
        if status != 200:
            raise OSError(f"{status} to a list of containers")
        return found

    async def run_containers(self, path: re.Match[str], _: bytes) -> Answer:
        """A page of this stack's run containers in any state, without their environment."""
        labels = [f"{name}={value}" for name, value in self.runs.policy.labels.items()]
        wanted = {"label": [*labels, RUN_LABEL], "before": [path["last"]] if path["last"] else []}
        filters = json.dumps(wanted)
        # An entry takes 16 kB of memory here: one page at a time.
        async with self.runs.listing:
            status, found = await self.ask(
                "GET", "/containers/json", all="true", limit="200", filters=filters
            )
        if status != 200:
            return status, found
        return 200, [
            {
                "Id": one["Id"],
                "State": one["State"],
                "Created": one["Created"],
                "Labels": {RUN_LABEL: one["Labels"][RUN_LABEL]},
            }
            for one in found
        ]

    async def remove(self, path: re.Match[str], _: bytes) -> Answer:
        """Removes a run container that has ended. The engine refuses one that is alive."""
        await self.find_run_container(path["id"])
        return await self.ask("DELETE", f"/containers/{path['id']}", v="true")

    async def check_limit(self) -> None:
        """Raises Refused when the number of live run containers has reached the limit."""
        alive = await self.containers(self.runs.policy.labels, ALIVE)
        if len(alive) >= self.runs.limit:
            raise Refused(f"{len(alive)} {TOO_MANY}, {self.runs.limit} may be")

    async def find_servers(self) -> None:
        """Notes which containers serve the code locations, in Runs.servers."""
        ours = {PROJECT_LABEL: self.runs.project, "com.docker.compose.oneoff": "False"}
        found = await self.containers(ours)
        # For each service the last entry wins: its newest running container.
        found.sort(key=lambda one: (one["State"] == "running", one["Created"]))
        # Run containers inherit Compose's labels from the image.
        servers = {
            one["Labels"].get(SERVICE_LABEL): one for one in found if RUN_LABEL not in one["Labels"]
        }
        for service in self.runs.locations & servers.keys():
            await self._remember(service, servers[service]["Id"])

    async def _remember(self, service: str, identifier: str) -> None:
        known = self.runs.servers.get(service)
        if known and known.container == identifier:
            return
        status, server = await self.ask("GET", f"/containers/{identifier}/json")
        if status == 200:  # else it has gone since it was listed
            # Not from the list: that has the image's ID as its name when the tag has moved.
            config = server["Config"]
            self.runs.servers[service] = CodeServer(
                identifier, config["Image"], server["Image"], config["Labels"]
            )

    async def code_servers(self, _: re.Match[str], __: bytes) -> Answer:
        """The containers that serve the code locations, with the images that they run."""
        await self.find_servers()
        return 200, [
            {
                "Id": one.container,
                "ImageID": one.image,
                "Labels": {n: v for n, v in one.labels.items() if n.startswith(SHOWN)},
            }
            for one in self.runs.servers.values()
        ]

    async def image_for(self, service: str, asked: str) -> str | None:
        """The ID of the image for a run of a code location, or None if the run may not have it.

        Args:
            service: The code location.
            asked: The name of the image, which stands for what the server runs, or an ID. An
                earlier image of the code location is allowed as well: the run was in the queue
                during a deploy, or it is a retry.
        """
        server = self.runs.servers.get(service)
        if server and asked in (server.name, server.image):
            return server.image
        if not IMAGE_ID.fullmatch(asked):
            return None
        status, found = await self.ask("GET", f"/images/{asked}/json")
        if status == 404:
            raise Refused(
                "the run's image is not on this machine any more: launch the run again, with the"
                " image that its code server runs now"
            )
        labels: dict[str, str] = (found["Config"]["Labels"] or {}) if status == 200 else {}
        built_for = labels.get(PROJECT_LABEL), labels.get(SERVICE_LABEL)
        return asked if built_for == (self.runs.project, service) else None

    async def start(self, path: re.Match[str], _: bytes) -> Answer:
        """Starts a run container. Checks the limit again: many may have been created before."""
        await self.runs.starting.acquire()
        work = asyncio.ensure_future(self._start(path["id"]))
        # The engine continues when the client disconnects. The lock is held until it has answered.
        work.add_done_callback(self._started)
        return await asyncio.shield(work)

    async def _start(self, identifier: str) -> Answer:
        await self.find_run_container(identifier)
        await self.check_limit()
        return await self.ask("POST", f"/containers/{identifier}/start")

    def _started(self, work: asyncio.Future[Answer]) -> None:
        self.runs.starting.release()
        if not work.cancelled():
            work.exception()  # mark it as retrieved, also when the client has disconnected

    async def stop(self, path: re.Match[str], _: bytes) -> Answer:
        """Stops a run container: SIGTERM, and SIGKILL after the given seconds."""
        seconds = int(path["seconds"] or min(DOCKER_STOP_SECONDS, self.runs.policy.stop_seconds))
        if seconds > self.runs.policy.stop_seconds:
            raise Refused(f"t={seconds}: at most {self.runs.policy.stop_seconds} (stop_timeout)")
        await self.find_run_container(path["id"])
        where = f"/containers/{path['id']}/stop"
        return await self.ask("POST", where, wait=seconds, t=str(seconds))

    async def create(self, _: re.Match[str], body: bytes) -> Answer:
        """Creates a run container by the policy, from an image of its code location."""
        fitting = self._fitting(body)
        # `start` checks the limit again. Here it prevents containers that could not be started.
        await asyncio.gather(self.find_servers(), self.check_limit())
        for service, wanted in fitting.items():
            image = await self.image_for(service, wanted["Image"])
            if image:
                return await self._create({**wanted, "Image": image})
        asked = next(iter(fitting.values()))["Image"]
        raise Refused(f"image {asked!r} is not one that a code location runs")

    async def _create(self, body: dict[str, Any]) -> Answer:
        """Names the container for its stack, job and run."""
        labels = body["Labels"]
        name = f"{self.runs.project}-{labels[JOB_LABEL][:60]}-{labels[RUN_LABEL][:8]}"
        status, answer = await self.ask("POST", "/containers/create", body, name=name)
        if status == 409:  # the run has a container already, which will end (resume_run)
            return await self.ask("POST", "/containers/create", body)
        return status, answer

    def _fitting(self, body: bytes) -> dict[str, dict[str, Any]]:
        """The code locations whose policy allows a create request, with the body for the engine.

        Raises:
            Refused: There is none.
        """
        fitting: dict[str, dict[str, Any]] = {}
        refusal = Refused("no code location is active")
        for service in sorted(self.runs.locations):
            try:
                fitting[service] = self.runs.policy.of(service).rebuild(body)
            except Refused as refused:
                refusal = refused
        if not fitting:
            raise refusal
        return fitting


class Missing(Exception):
    """The engine's own response for a container that does not exist."""


Handler = Callable[[re.Match[str], bytes], Awaitable[Answer]]


class Listener(web.Server):
    """One of the guard's listeners."""

    def __init__(self, name: str, engine: Engine, *, launches: bool) -> None:
        """Does not listen yet.

        Args:
            name: The name of its client, for the audit line.
            engine: Its own connections to the engine.
            launches: Whether it accepts requests to create and start run containers.
        """
        super().__init__(
            self.handle,
            # When a client disconnects, its request releases the connection to the engine.
            handler_cancellation=True,
            # aiohttp uses this as the time limit for the head of the first request as well.
            keepalive_timeout=REQUEST_SECONDS,
            # After a refusal, read the rest of the request for this long. Otherwise the client
            # might not see the response.
            lingering_time=1,
            # The launcher sends 8 headers, each shorter than 100 characters.
            max_line_size=1024,
            max_field_size=1024,
            max_headers=32,
            read_bufsize=16 * 1024,
            # Never decompress: a compressed body is not JSON and is refused.
            auto_decompress=False,
        )
        self.name = name
        self.engine = engine
        # By method and pattern of the whole path.
        self.routes: dict[tuple[str, re.Pattern[str]], Handler] = {
            ("GET", VERSION): engine.version,
            ("GET", INSPECT): engine.inspect,
            ("GET", LIST): engine.code_servers,
            ("POST", STOP): engine.stop,
        }
        if launches:
            self.routes |= {
                ("POST", CREATE): engine.create,
                ("POST", START): engine.start,
                ("GET", LOGS): engine.logs,
                ("GET", LIST_RUNS): engine.run_containers,
                ("DELETE", REMOVE): engine.remove,
            }
        self.open = 0
        # Connections that have not delivered their request yet, the oldest first. The listener may
        # close them.
        self.awaited: dict[web.RequestHandler, asyncio.Transport] = {}

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Accepts a connection. If there are too many, closes the oldest waiting one."""
        super().connection_made(handler, transport)
        self.open += 1
        self.awaited[handler] = transport
        if self.open > MAX_CONNECTIONS:
            self.awaited.pop(next(iter(self.awaited))).abort()

    def connection_lost(
        self, handler: web.RequestHandler, exc: BaseException | None = None
    ) -> None:
        """Forgets a connection."""
        super().connection_lost(handler, exc)
        self.open -= 1
        self.awaited.pop(handler, None)

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """Answers a request, and writes the decision as one line of the log."""
        # The values for a client that disconnects, which cancels its request.
        decision, reason, status, answer = "cancelled", "", 0, None
        path = request.raw_path
        try:
            handler, match = self._route(request.method, path)
            body = await _body(request)
            if not self.awaited.pop(request.protocol, None):
                raise Refused("the client has closed the connection: nothing is created")
            status, answer = await handler(match, body)
            decision = "allowed"
        except Refused as refusal:
            decision, reason, status = "refused", str(refusal), refusal.status
        except Missing as missing:
            decision, status, answer = "missing", 404, missing.args[0]
        except (ClientError, OSError, TimeoutError) as error:
            decision, reason, status = "failed", f"the Docker engine: {error!r}", 502
        finally:
            audit = {"listener": self.name, "method": request.method, "path": path[:300]}
            audit |= {"decision": decision, "status": status, "reason": reason}
            print(json.dumps(audit), flush=True)
        if reason:
            answer = {"message": f"guard: {decision}: {reason}"}
        if answer is None or isinstance(answer, bytes):
            response = web.Response(status=status, body=answer)
        else:
            response = web.json_response(answer, status=status)
        response.force_close()
        return response

    def _route(self, method: str, path: str) -> tuple[Handler, re.Match[str]]:
        for (allowed, pattern), handler in self.routes.items():
            match = pattern.fullmatch(path)
            if allowed == method and match:
                return handler, match
        if PULL.fullmatch(path):
            raise Refused(
                "the run's image is not on this machine, and images are not pulled: make up"
            )
        raise Refused(f"{method} {path[:100]} is not for this listener")


async def _last_frames(stream: StreamReader) -> bytes:
    """The end of a log: whole frames, with MAX_LOG_BYTES in all. A frame has a head of 8 bytes."""
    frames: deque[bytes] = deque()
    size = 0
    with suppress(asyncio.IncompleteReadError):
        while True:
            head = await stream.readexactly(8)
            frames.append(head + await stream.readexactly(int.from_bytes(head[4:])))
            size += len(frames[-1])
            while size > MAX_LOG_BYTES:
                size -= len(frames.popleft())
    return b"".join(frames)


async def _body(request: web.BaseRequest) -> bytes:
    """Reads the body, up to the size limit."""
    if "Upgrade" in request.headers:
        raise Refused("upgrades are not for this listener")
    body = b""
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            while len(body) <= MAX_BODY_BYTES and not request.content.at_eof():
                body += await request.content.read(MAX_BODY_BYTES + 1 - len(body))
    except (ClientError, OSError, TimeoutError):
        raise Refused("the body did not arrive in time") from None
    return body


def _shorten_record(record: logging.LogRecord) -> bool:
    """Shortens aiohttp's log record about a request that is not HTTP (status 400)."""
    error = record.exc_info and record.exc_info[1]
    if isinstance(error, HttpProcessingError):
        audit = {"decision": "refused", "status": 400, "reason": f"no HTTP: {error.message[:100]}"}
        record.msg, record.args, record.exc_info = json.dumps(audit), (), None
    return True


logging.getLogger("aiohttp.server").addFilter(_shorten_record)


async def listen(listener: Listener, path: Path) -> web.ServerRunner:
    """Opens the socket of a listener."""
    runner = web.ServerRunner(listener)
    await runner.setup()
    path.unlink(missing_ok=True)  # left by the guard before this one
    opened = socket.socket(socket.AF_UNIX)
    opened.bind(str(path))
    path.chmod(0o666)  # clients run as other users; the mount decides who reaches it
    await web.SockSite(runner, opened, backlog=ACCEPTED_AT_ONCE).start()
    opened.listen(QUEUED)
    return runner


def listeners(path: str, runs: Runs) -> tuple[Listener, Listener]:
    """The launch listener and the stop listener."""
    return (
        Listener("daemon", Engine(path, runs), launches=True),
        Listener("webserver", Engine(path, runs), launches=False),
    )
