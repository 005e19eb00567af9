"""The guard's two listeners: which Docker API calls each accepts, and how.

The daemon's listener creates, starts, inspects and stops run containers. The web server's inspects
and stops them. Each is a Unix socket on a volume of its own, which only its client mounts. A path
is matched whole, as it came, never decoded. Only the checked body of a request goes on to the
engine, no header does. A connection serves one request, has seconds to deliver it, and gives way
to newer connections.
"""

import asyncio
import json
import logging
import re
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar, UnixConnector, web
from aiohttp.http import HttpProcessingError

from control_plane.guard.policy import (
    DOCKER_STOP_SECONDS,
    MAX_BODY_BYTES,
    RUN_LABEL,
    Policy,
    Refused,
)

ENGINE_TIMEOUT_SECONDS = 60
# Every client asks for the version first, and the engine takes 10 ms to say it, much longer than
# to inspect a container. Shorter than the time between two health checks, which ask for it too.
VERSION_SECONDS = 30
# The states of a container that takes memory and CPU.
ALIVE = ["running", "paused", "restarting"]
# For a request's head, and again for its body: the launcher sends both at once.
REQUEST_SECONDS = 5
# On one listener. The daemon and the web server have a few at a time.
MAX_CONNECTIONS = 64
# Far below MAX_CONNECTIONS, so that a new connection has its turn before a burst of later ones
# could push it out. The rest wait in the kernel's queue, which is as long as the kernel allows.
ACCEPTED_AT_ONCE, QUEUED = 8, 4096
CONTAINER = r"/v1\.\d{2}/containers/(?P<id>[0-9a-f]{64})"
VERSION, CREATE = re.compile(r"/version"), re.compile(r"/v1\.\d{2}/containers/create")
INSPECT, START = re.compile(rf"{CONTAINER}/json"), re.compile(rf"{CONTAINER}/start")
STOP = re.compile(rf"{CONTAINER}/stop(\?t=(?P<seconds>\d{{1,4}}))?")
PULL = re.compile(r"/v1\.\d{2}/images/create.*")

Answer = tuple[int, Any]


class Runs:
    """What the listeners share: this stack's run containers, and the images that they use."""

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
        # From counting the containers until the next one counts.
        self.starting = asyncio.Lock()
        # For each code location its server's container, and that one's image ID by name and by
        # itself. They hold while there is no container, which takes a second during a deploy.
        self.images: dict[str, tuple[str, dict[str, str]]] = {}


class Engine:
    """The Docker engine, as far as one of the guard's listeners asks it for anything."""

    def __init__(self, path: str, runs: Runs) -> None:
        """Does not connect yet.

        Args:
            path: The engine's socket.
            runs: What the listeners share.
        """
        self.session = ClientSession(
            "http://engine",
            # Requests that wait do not hold up others; the listener limits how many there are.
            connector=UnixConnector(path, limit=0),
            cookie_jar=DummyCookieJar(),
        )
        self.runs = runs
        self.told: dict[str, str] = {}
        self.told_at = 0.0

    async def ask(
        self, method: str, path: str, body: object = None, wait: int = 0, **query: str
    ) -> Answer:
        """Asks the engine; returns the status and the JSON that it answers, if any.

        Args:
            method: GET or POST.
            path: Without the API's version.
            body: What to send, as JSON.
            wait: How many seconds the engine takes by itself to do it.
            query: What comes after the path.
        """
        timeout = ClientTimeout(total=ENGINE_TIMEOUT_SECONDS + wait)
        async with self.session.request(
            method, path, json=body, params=query, timeout=timeout
        ) as response:
            text = await response.text()
            return response.status, json.loads(text) if text.strip() else None

    async def version(self, _: re.Match[str], __: bytes) -> Answer:
        """What a client needs to choose an API version."""
        if not self.told or monotonic() - self.told_at > VERSION_SECONDS:
            told = (await self.ask("GET", "/version"))[1]
            self.told = {name: told[name] for name in ("Version", "ApiVersion", "MinAPIVersion")}
            self.told_at = monotonic()
        return 200, self.told

    async def own(self, identifier: str) -> dict[str, Any]:
        """A run container of this stack, cut down to what the launcher reads.

        Raises:
            Missing: There is none of that id, or it is not one.
        """
        status, found = await self.ask("GET", f"/containers/{identifier}/json")
        if status != 200:
            raise Missing(found)
        labels: dict[str, str] = found["Config"]["Labels"] or {}
        ours = self.runs.policy.labels.items()
        if RUN_LABEL not in labels or any(labels.get(name) != value for name, value in ours):
            raise Missing({"message": f"No such container: {identifier}"})
        return {"Id": found["Id"], "State": found["State"], "Image": found["Image"]}

    async def inspect(self, path: re.Match[str], _: bytes) -> Answer:
        """State and image of a run container; not its environment."""
        return 200, await self.own(path["id"])

    async def containers(
        self, labels: Mapping[str, str], states: Sequence[str] = ()
    ) -> list[dict[str, Any]]:
        """Containers with these labels, in these states or in any, as the engine lists them."""
        wanted = {"label": [f"{k}={v}" for k, v in labels.items()], "status": list(states)}
        filters = json.dumps(wanted)
        status, found = await self.ask("GET", "/containers/json", all="true", filters=filters)
        if status != 200:
            raise OSError(f"{status} to a list of containers")
        return found

    async def room(self) -> None:
        """Raises Refused when as many run containers as may be alive are."""
        alive = await self.containers(self.runs.policy.labels, ALIVE)
        if len(alive) >= self.runs.limit:
            raise Refused(f"{len(alive)} run containers are alive, {self.runs.limit} may be")

    async def images(self) -> dict[str, str]:
        """The images that the code locations run: their IDs by name and by themselves."""
        ours = {"com.docker.compose.project": self.runs.project}
        ours |= {"com.docker.compose.oneoff": "False"}
        found = await self.containers(ours)
        # The last of a service is its server: the newest that runs.
        found.sort(key=lambda one: (one["State"] == "running", one["Created"]))
        # Run containers have Compose's labels as well, from the image.
        servers = {
            one["Labels"].get("com.docker.compose.service"): one
            for one in found
            if RUN_LABEL not in one["Labels"]
        }
        for service in self.runs.locations & servers.keys():
            await self._learn(service, servers[service]["Id"])
        return {k: v for _, images in self.runs.images.values() for k, v in images.items()}

    async def _learn(self, service: str, identifier: str) -> None:
        if self.runs.images.get(service, ("", {}))[0] == identifier:
            return
        status, server = await self.ask("GET", f"/containers/{identifier}/json")
        if status == 200:  # else it has gone since it was listed
            # Not as the list has it, which names the image by its ID when the tag has moved.
            name, image = server["Config"]["Image"], server["Image"]
            self.runs.images[service] = identifier, {name: image, image: image}

    async def start(self, path: re.Match[str], _: bytes) -> Answer:
        """Starts a run container, if not too many are alive: many may have been created before."""
        await self.runs.starting.acquire()
        work = asyncio.ensure_future(self._start(path["id"]))
        # The engine goes on when the client has gone: until it has answered, nothing is counted.
        work.add_done_callback(self._started)
        return await asyncio.shield(work)

    async def _start(self, identifier: str) -> Answer:
        await self.own(identifier)
        await self.room()
        return await self.ask("POST", f"/containers/{identifier}/start")

    def _started(self, work: asyncio.Future[Answer]) -> None:
        self.runs.starting.release()
        if not work.cancelled():
            work.exception()  # seen, also when nobody waits for it any more

    async def stop(self, path: re.Match[str], _: bytes) -> Answer:
        """Stops a run container: SIGTERM, then after the given seconds SIGKILL."""
        seconds = int(path["seconds"] or min(DOCKER_STOP_SECONDS, self.runs.policy.stop_seconds))
        if seconds > self.runs.policy.stop_seconds:
            raise Refused(f"t={seconds}: at most {self.runs.policy.stop_seconds} (stop_timeout)")
        await self.own(path["id"])
        where = f"/containers/{path['id']}/stop"
        return await self.ask("POST", where, wait=seconds, t=str(seconds))

    async def create(self, _: re.Match[str], body: bytes) -> Answer:
        """Creates a run container as the policy has it, from an image that a code location runs."""
        wanted = self.runs.policy.rebuild(body)
        # Start counts again; here it keeps what could not be started from being made.
        images, *_rest = await asyncio.gather(self.images(), self.room())
        if wanted["Image"] not in images:
            raise Refused(f"image {wanted['Image']!r} is not one that a code location runs")
        wanted["Image"] = images[wanted["Image"]]
        return await self.ask("POST", "/containers/create", wanted)


class Missing(Exception):
    """The engine's own answer for a container that is not there."""


Handler = Callable[[re.Match[str], bytes], Awaitable[Answer]]


class Listener(web.Server):
    """One of the guard's listeners."""

    def __init__(self, name: str, engine: Engine, *, launches: bool) -> None:
        """Does not listen yet.

        Args:
            name: Whose it is, for the audit line.
            engine: With connections of this listener's own.
            launches: Whether it lets run containers be created and started.
        """
        super().__init__(
            self.handle,
            # A client that has gone waits for nothing, and holds no connection to the engine.
            handler_cancellation=True,
            # In aiohttp also the time for the head of a connection's first request.
            keepalive_timeout=REQUEST_SECONDS,
            # How long the rest of a refused request is read, for the client to see the answer.
            lingering_time=1,
            # What the launcher sends has 8 headers, each shorter than 100 characters.
            max_line_size=1024,
            max_field_size=1024,
            max_headers=32,
            read_bufsize=16 * 1024,
            # No Content-Encoding: a compressed body is no JSON, whatever is in it.
            auto_decompress=False,
        )
        self.name = name
        self.engine = engine
        # Method and whole path.
        self.routes: dict[tuple[str, re.Pattern[str]], Handler] = {
            ("GET", VERSION): engine.version,
            ("GET", INSPECT): engine.inspect,
            ("POST", STOP): engine.stop,
        }
        if launches:
            self.routes |= {("POST", CREATE): engine.create, ("POST", START): engine.start}
        self.open = 0
        # Connections whose request has not come yet, the longest wait first. They may be closed.
        self.awaited: dict[web.RequestHandler, asyncio.Transport] = {}

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Accepts a connection. When there are too many, closes the one that waits longest."""
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
        """Answers a request, and says in one line of the log what was decided."""
        # Unless something else happens: the client has gone, and took its request with it.
        decision, reason, status, answer = "cancelled", "", 0, None
        path = request.raw_path
        try:
            handler, match = self._route(request.method, path)
            body = await _body(request)
            if not self.awaited.pop(request.protocol, None):
                raise Refused("the connection is closed: nothing is made for who has gone")
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
        response = (
            web.Response(status=status)
            if answer is None
            else web.json_response(answer, status=status)
        )
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


async def _body(request: web.BaseRequest) -> bytes:
    """Reads the body, no further than a request may be long."""
    if "Upgrade" in request.headers:
        raise Refused("upgrades are not for this listener")
    body = b""
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            while len(body) <= MAX_BODY_BYTES and not request.content.at_eof():
                body += await request.content.read(MAX_BODY_BYTES + 1 - len(body))
    except (ClientError, OSError, TimeoutError):
        raise Refused("the body did not come") from None
    return body


def _in_one_line(record: logging.LogRecord) -> bool:
    """Shortens what aiohttp says of a request that is no HTTP, and has answered with 400."""
    error = record.exc_info and record.exc_info[1]
    if isinstance(error, HttpProcessingError):
        audit = {"decision": "refused", "status": 400, "reason": f"no HTTP: {error.message[:100]}"}
        record.msg, record.args, record.exc_info = json.dumps(audit), (), None
    return True


logging.getLogger("aiohttp.server").addFilter(_in_one_line)


async def listen(listener: Listener, path: Path) -> web.ServerRunner:
    """Opens a listener's socket."""
    runner = web.ServerRunner(listener)
    await runner.setup()
    path.unlink(missing_ok=True)  # of the guard before this one
    opened = socket.socket(socket.AF_UNIX)
    opened.bind(str(path))
    path.chmod(0o666)  # clients run as another user; the mounts decide who reaches it
    await web.SockSite(runner, opened, backlog=ACCEPTED_AT_ONCE).start()
    opened.listen(QUEUED)
    return runner


def listeners(path: str, runs: Runs) -> tuple[Listener, Listener]:
    """The daemon's listener and the web server's."""
    return (
        Listener("daemon", Engine(path, runs), launches=True),
        Listener("webserver", Engine(path, runs), launches=False),
    )
