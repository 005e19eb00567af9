"""The guard's two doors: what of the Docker API each lets through, and how.

The daemon's door creates, starts, inspects and stops run containers; the webserver's inspects and
stops them. Each listens on the address of a network of its own. A path is matched whole and as it
came, never decoded; of a request only the checked body goes on, no header does.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import ClientError, ClientSession, UnixConnector, web

from control_plane.guard.policy import MAX_BODY_BYTES, RUN_LABEL, Policy, Refused

ENGINE_TIMEOUT_SECONDS = 60
CONTAINER = r"/v1\.\d{2}/containers/(?P<id>[0-9a-f]{64})"
VERSION, CREATE = re.compile(r"/version"), re.compile(r"/v1\.\d{2}/containers/create")
INSPECT, START = re.compile(rf"{CONTAINER}/json"), re.compile(rf"{CONTAINER}/start")
STOP = re.compile(rf"{CONTAINER}/stop(\?t=(?P<seconds>\d{{1,4}}))?")
PULL = re.compile(r"/v1\.\d{2}/images/create.*")

Answer = tuple[int, Any]


class Engine:
    """The Docker engine, as far as the guard asks it for anything."""

    def __init__(self, socket: str, stack_labels: Mapping[str, str], limit: int) -> None:
        """Does not connect yet.

        Args:
            socket: The engine's socket.
            stack_labels: What marks this stack's run containers.
            limit: How many of them may be alive at once.
        """
        self.connector = UnixConnector(socket)
        self.labels = stack_labels
        self.limit = limit
        self.creating = asyncio.Lock()

    async def ask(self, method: str, path: str, body: object = None, **query: str) -> Answer:
        """Asks the engine; returns the status and the JSON that it answers, if any."""
        async with (
            ClientSession(connector=self.connector, connector_owner=False) as session,
            session.request(
                method,
                f"http://engine{path}",
                json=body,
                params=query,
                timeout=ENGINE_TIMEOUT_SECONDS,  # type: ignore[arg-type] # seconds are allowed
            ) as response,
        ):
            text = await response.text()
            return response.status, json.loads(text) if text.strip() else None

    async def version(self, _: re.Match[str], __: bytes) -> Answer:
        """What a client needs to choose an API version."""
        status, told = await self.ask("GET", "/version")
        return status, {name: told[name] for name in ("Version", "ApiVersion", "MinAPIVersion")}

    async def own(self, identifier: str) -> dict[str, Any]:
        """A run container of this stack, cut down to what the launcher reads.

        Raises:
            Missing: There is none of that id, or it is not one.
        """
        status, found = await self.ask("GET", f"/containers/{identifier}/json")
        if status != 200:
            raise Missing(found)
        labels: dict[str, str] = found["Config"]["Labels"] or {}
        if RUN_LABEL not in labels or any(labels.get(k) != v for k, v in self.labels.items()):
            raise Missing({"message": f"No such container: {identifier}"})
        return {"Id": found["Id"], "State": found["State"], "Image": found["Image"]}

    async def inspect(self, path: re.Match[str], _: bytes) -> Answer:
        """State and image of a run container; not its environment."""
        return 200, await self.own(path["id"])

    async def start(self, path: re.Match[str], _: bytes) -> Answer:
        """Starts a run container."""
        await self.own(path["id"])
        return await self.ask("POST", f"/containers/{path['id']}/start")

    async def stop(self, path: re.Match[str], _: bytes) -> Answer:
        """Stops a run container: SIGTERM, then after the given seconds SIGKILL."""
        await self.own(path["id"])
        seconds = {"t": path["seconds"]} if path["seconds"] else {}
        return await self.ask("POST", f"/containers/{path['id']}/stop", **seconds)

    async def create(self, policy: Policy, body: bytes) -> Answer:
        """Creates a run container as the policy has it."""
        wanted = policy.rebuild(body)
        filters = json.dumps({"label": [f"{k}={v}" for k, v in self.labels.items()]})
        async with self.creating:
            _, alive = await self.ask("GET", "/containers/json", filters=filters)
            if len(alive) >= self.limit:
                raise Refused(f"{len(alive)} run containers are alive, {self.limit} may be")
            return await self.ask("POST", "/containers/create", wanted)


class Missing(Exception):
    """The engine's own answer for a container that is not there."""


Handler = Callable[[re.Match[str], bytes], Awaitable[Answer]]


def door(name: str, routes: Mapping[tuple[str, re.Pattern[str]], Handler]) -> web.Server:
    """One of the guard's doors.

    Args:
        name: Whose it is, for the audit line.
        routes: What it lets through: method and whole path, and who handles it.
    """

    async def handle(request: web.BaseRequest) -> web.Response:
        decision, reason, answer = "allowed", "", None
        path, status = request.raw_path, 500
        try:
            handler, match = _route(routes, request.method, path)
            body = await _body(request)
            status, answer = await handler(match, body)
        except Refused as refusal:
            decision, reason, status = "refused", str(refusal), 403
        except Missing as missing:
            decision, status, answer = "missing", 404, missing.args[0]
        except (ClientError, OSError, TimeoutError) as error:
            decision, reason, status = "failed", f"the Docker engine: {error!r}", 502
        audit = {"door": name, "method": request.method, "path": path[:300], "decision": decision}
        print(json.dumps({**audit, "status": status, "reason": reason}), flush=True)
        if reason:
            answer = {"message": f"guard: {decision}: {reason}"}
        if answer is None:
            return web.Response(status=status)
        return web.json_response(answer, status=status)

    return web.Server(handle)  # type: ignore[arg-type] # aiohttp's own handler type


def _route(
    routes: Mapping[tuple[str, re.Pattern[str]], Handler], method: str, path: str
) -> tuple[Handler, re.Match[str]]:
    for (allowed, pattern), handler in routes.items():
        match = pattern.fullmatch(path)
        if allowed == method and match:
            return handler, match
    if PULL.fullmatch(path):
        raise Refused("the run's image is not on this machine, and images are not pulled: make up")
    raise Refused(f"{method} {path[:100]} is not for this door")


async def _body(request: web.BaseRequest) -> bytes:
    """Reads the body, no further than a request may be long."""
    if "Upgrade" in request.headers:
        raise Refused("upgrades are not for this door")
    body = await request.content.read(MAX_BODY_BYTES + 1)
    while len(body) <= MAX_BODY_BYTES and not request.content.at_eof():
        body += await request.content.read(MAX_BODY_BYTES + 1 - len(body))
    return body


def doors(engine: Engine, policy: Policy) -> tuple[web.Server, web.Server]:
    """The daemon's door and the webserver's."""

    async def create(_: re.Match[str], body: bytes) -> Answer:
        return await engine.create(policy, body)

    looking: dict[tuple[str, re.Pattern[str]], Handler] = {
        ("GET", VERSION): engine.version,
        ("GET", INSPECT): engine.inspect,
        ("POST", STOP): engine.stop,
    }
    launching = {**looking, ("POST", CREATE): create, ("POST", START): engine.start}
    return door("daemon", launching), door("webserver", looking)
