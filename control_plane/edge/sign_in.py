"""Sign-in page and session check. The edge asks it about every request (Caddy's `forward_auth`).

The gap: Dagster's web server has no sign-in at all. Caddy's own (`basic_auth`) has no page, no
signing out and no limit on guesses, and takes most of a second of CPU for each, so that a few
hundred guesses stop everybody's work. Could be deleted for any identity provider that speaks
`forward_auth` (docs/security.md, Single sign-on): it implements the same protocol.

People sign in on a page and get a session; API clients send Basic credentials with each request.
Passwords are only ever generated (256 random bits, by `prepare`), which is why a fast comparison
is enough. Sessions are in memory: a restart signs people out.
"""

import asyncio
import base64
import hashlib
import hmac
import html
import ipaddress
import json
import os
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler

from control_plane.edge.websocket_relay import edge_answers, start_relay

PORT = 8000
# A file for each user, with the password.
PASSWORDS = Path("/run/sign-in-credentials")
# The edge shows operators the whole UI, and viewers one that changes nothing.
GROUPS = {"dagster": "dagster-operators", "viewer": "dagster-viewers"}
SESSION_SECONDS = 12 * 3600
# How many wrong passwords an address may try at once, and how long it waits for each further one.
GUESSES = 10
SECONDS_PER_GUESS = 30
# Addresses with wrong passwords; beyond it the oldest are forgotten.
MEMORY = 10_000
# Sessions of one user, and addresses that the user has signed in from; beyond it the user's oldest
# are forgotten. No user can push out another's.
MEMORY_PER_USER = 500
MAX_FORM_BYTES = 4096
# Where a browser is sent after signing in: a path of this origin, in printable ASCII. To a browser
# `//host`, `/\host` and `/<tab>/host` are other hosts.
GOAL = re.compile(r"/([!-.0-[\]-~][!-[\]-~]*)?")

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Dagster: {title}</title>
<style>
 body {{ font: 16px system-ui, sans-serif; display: grid; place-content: center; height: 90vh }}
 form {{ display: grid; gap: 12px; width: 300px }}
 input, button {{ font: inherit; padding: 8px; box-sizing: border-box; width: 100% }}
 [role=alert] {{ color: #b00020; margin: 0 }}
</style>
<form method="post"><h1>Dagster</h1>{fields}<button>{title}</button></form></html>
"""
FIELDS = """<p role="alert">{problem}</p>{hint}<input type="hidden" name="next" value="{goal}">
<label>User <input name="user" value="dagster" autocomplete="username" required></label>
<label>Password <input name="password" type="password" autocomplete="current-password"
 autofocus required></label>"""
# Browsers send a cookie to every port of a host. Any other server on a loopback address that the
# user visits would get the session; the stack's own name is used by this stack alone.
HINT = """<p>Better sign in at <a href="{url}/sign-in">{url}</a>: at this address other servers on
this machine get your session as well.</p>"""
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
# The page needs its own style and its own form, and nothing from anywhere.
PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'"


class TooManyGuesses(Exception):
    """The address has to wait; the argument says how many seconds."""


class Guesses:
    """How many wrong passwords each address may still try.

    A user who has signed in from an address before is exempt from its rate limit: on one machine,
    and behind one router, all users have the same address.
    """

    def __init__(self, users: Iterable[str]) -> None:
        self.left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        # By user: addresses, with the digest of what was right.
        self.right: dict[str, OrderedDict[tuple[str, bytes], None]]
        self.right = {user: OrderedDict() for user in users}

    def seconds_to_wait(self, address: str) -> float:
        """How long until the address may guess again; 0 if it may now."""
        return max(0.0, (1 - self._left(address)) * SECONDS_PER_GUESS)

    def count_wrong(self, address: str) -> None:
        """Takes one guess from an address."""
        left = self._left(address)
        _put(self.left, address, (left - 1, time.monotonic()), MEMORY)

    def _left(self, address: str) -> float:
        left, since = self.left.get(address, (GUESSES, 0.0))
        return min(GUESSES, left + (time.monotonic() - since) / SECONDS_PER_GUESS)


class SignIn:
    """The users, their sessions, and what wrong passwords cost."""

    def __init__(self, users: Mapping[str, str], cookie: str, ui_url: str = "") -> None:
        """Takes the users' passwords by name, the name of the session's cookie, and UI_URL."""
        self.ui_url = ui_url
        self.digests = {user: _digest(user, password) for user, password in users.items()}
        self.cookie = cookie
        self.guesses = Guesses(users)
        # By user: when each session ends, by its token.
        self.sessions: dict[str, OrderedDict[str, float]] = {user: OrderedDict() for user in users}

    def is_right(self, address: str, user: str, password: str) -> bool:
        """Whether the password is the user's.

        Raises:
            TooManyGuesses: Not looked at, because the address has had too many wrong ones.
        """
        given = _digest(user, password)
        seconds = self.guesses.seconds_to_wait(address)
        if seconds and (address, given) not in self.guesses.right.get(user, ()):
            raise TooManyGuesses(int(seconds) + 1)
        if hmac.compare_digest(given, self.digests.get(user, b"")):
            _put(self.guesses.right[user], (address, given), None, MEMORY_PER_USER)
            return True
        self.guesses.count_wrong(address)
        say("wrong password", address=address, user=user[:80])
        return False

    def open_session(self, user: str) -> str:
        """Returns the new session's token."""
        token = secrets.token_urlsafe(32)
        until = time.monotonic() + SESSION_SECONDS
        _put(self.sessions[user], token, until, MEMORY_PER_USER)
        return token

    def user_of(self, token: str) -> str | None:
        """The user of a session; None if there is no such session, or it is over."""
        now = time.monotonic()
        return next((u for u, opened in self.sessions.items() if now < opened.get(token, 0)), None)

    async def verify(self, request: web.Request) -> web.Response:
        """The edge's question: 2xx lets the request through, anything else is its answer."""
        user = self.user_of(request.cookies.get(self.cookie, ""))
        credentials = _basic(request.headers.get("Authorization", ""))
        if user is None and credentials and self.is_right(_address(request), *credentials):
            user = credentials[0]
        if user is not None:
            return web.Response(headers={"Remote-User": user, "Remote-Groups": GROUPS[user]})
        if "text/html" in request.headers.get("Accept", "") and not credentials:
            goal = quote(request.headers.get("X-Forwarded-Uri", "/"), safe="")
            return web.Response(status=303, headers={"Location": f"/sign-in?next={goal}"})
        return web.Response(
            status=401,
            # To this header a browser opens a window of its own, over a page that goes on behind.
            headers={} if "Sec-Fetch-Mode" in request.headers else {"WWW-Authenticate": "Basic"},
            text="sign in: Basic credentials or the page /sign-in; `make credentials` has them\n",
        )

    async def show_sign_in(self, request: web.Request) -> web.Response:
        """The page to sign in on."""
        return self._sign_in_page(request, request.query.get("next", "/"))

    async def sign_in(self, request: web.Request) -> web.Response:
        """Opens a session and goes on to the page that was asked for."""
        posted = await _form(request)
        user, password, goal = (posted.get(name, "") for name in ("user", "password", "next"))
        if not self.is_right(_address(request), user, password):
            return self._sign_in_page(request, goal, "Wrong user or password")
        say("signed in", address=_address(request), user=user)
        answer = web.Response(
            status=303, headers={"Location": goal if GOAL.fullmatch(goal) else "/"}
        )
        answer.set_cookie(
            self.cookie,
            self.open_session(user),
            max_age=SESSION_SECONDS,
            httponly=True,
            # Not Strict: a link in a notification should show its run, not the sign-in page.
            samesite="Lax",
            secure=request.headers.get("X-Forwarded-Proto") == "https",
        )
        return answer

    def _sign_in_page(self, request: web.Request, goal: str, problem: str = "") -> web.Response:
        name = request.host.rpartition(":")[0] or request.host
        is_shared = name in LOOPBACK and urlsplit(self.ui_url).hostname not in LOOPBACK
        hint = HINT.format(url=html.escape(self.ui_url)) if is_shared else ""
        escaped = {"goal": html.escape(goal), "problem": problem, "hint": hint}
        return _page("Sign in", FIELDS.format(**escaped), status=401 if problem else 200)

    async def show_sign_out(self, _: web.Request) -> web.Response:
        """The page to sign out on."""
        return _page("Sign out", "")

    async def sign_out(self, request: web.Request) -> web.Response:
        """Ends the session; relayed WebSockets of it notice (websocket_relay.py)."""
        for opened in self.sessions.values():
            opened.pop(request.cookies.get(self.cookie, ""), None)
        answer = web.Response(status=303, headers={"Location": "/sign-in"})
        answer.del_cookie(self.cookie)
        return answer

    def application(self) -> web.Application:
        """Everything that the edge passes on to here."""
        application = web.Application(client_max_size=MAX_FORM_BYTES, middlewares=[_slow_down])
        application.add_routes(
            [
                web.get("/verify", self.verify),
                web.get("/sign-in", self.show_sign_in),
                web.post("/sign-in", self.sign_in),
                web.get("/sign-out", self.show_sign_out),
                web.post("/sign-out", self.sign_out),
            ]
        )
        return application


@web.middleware
async def _slow_down(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except TooManyGuesses as seconds:
        text = f"too many wrong passwords from this address: wait {seconds} s\n"
        return web.Response(status=429, headers={"Retry-After": str(seconds)}, text=text)


def say(event: str, **details: str) -> None:
    """Writes one line of JSON, for whoever watches the log."""
    print(json.dumps({"event": event, **details}), flush=True)


def _put(memory: OrderedDict[Any, Any], key: object, value: object, most: int) -> None:
    memory[key] = value
    memory.move_to_end(key)
    if len(memory) > most:
        memory.popitem(last=False)


async def _form(request: web.Request) -> dict[str, str]:
    """The fields of a posted form; of a field that is there twice the last.

    Raises:
        HTTPBadRequest: It is not what a browser sends for the sign-in page's form.
    """
    try:
        if request.headers.getall("Content-Type") != ["application/x-www-form-urlencoded"]:
            raise ValueError("another type")
        return dict(parse_qsl((await request.read()).decode(), max_num_fields=10))
    except (KeyError, ValueError):
        raise web.HTTPBadRequest(text="not the form of the sign-in page\n") from None


def _digest(user: str, password: str) -> bytes:
    return hashlib.sha256(f"{user}\0{password}".encode(errors="surrogateescape")).digest()


def _address(request: web.Request) -> str:
    """Where the client is, as the edge has it; of IPv6 the network, since each host has many."""
    forwarded = request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()
    try:
        address = ipaddress.ip_address(forwarded)
    except ValueError:
        raise web.HTTPBadRequest(text="the edge did not say where this comes from\n") from None
    if address.version == 4:
        return str(address)
    return str(ipaddress.ip_network((address, 64), strict=False))


def _basic(header: str) -> tuple[str, str] | None:
    """User and password of an Authorization header, if it has them."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except ValueError:  # also for what is no ASCII and for what is no UTF-8
        return "", ""
    return user, password


def _page(title: str, fields: str, status: int = 200) -> web.Response:
    text = PAGE.format(title=title, fields=fields)
    headers = {"Content-Security-Policy": PAGE_POLICY, "Cache-Control": "no-store"}
    return web.Response(status=status, text=text, content_type="text/html", headers=headers)


async def _announce(_: web.Application) -> AsyncIterator[None]:
    """Says where and how to sign in, once the edge answers: `docker compose up` ends with it."""

    async def say_when_ready() -> None:
        await edge_answers()
        where, password = os.environ["UI_URL"], PASSWORDS / "dagster"
        print(
            f"Dagster is ready: sign in at {where} as dagster\n"
            f"The password: docker compose exec sign_in cat {password}",
            flush=True,
        )

    task = asyncio.create_task(say_when_ready())
    yield
    task.cancel()


def main() -> None:
    """Serves until stopped."""
    users = {user: (PASSWORDS / user).read_text().strip() for user in GROUPS}
    sign_in = SignIn(users, f"{os.environ['STACK_NAME']}-session", os.environ["UI_URL"])
    application = sign_in.application()
    application.on_startup.append(start_relay)
    application.cleanup_ctx.append(_announce)
    web.run_app(application, port=PORT, access_log=None, print=None)


if __name__ == "__main__":
    main()
