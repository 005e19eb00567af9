"""Who is asking: answers the edge's question for every request (Caddy's `forward_auth`).

The gap: Dagster's web server has no sign-in at all. Caddy's own (`basic_auth`) has no page, no
signing out and no limit on guesses, and takes most of a second of CPU for each, so that a few
hundred guesses stop everybody's work. Could be deleted for any identity provider that speaks
`forward_auth` (docs/security.md, Single sign-on): this answers as such a one would.

People sign in on a page and get a session; API clients send Basic credentials with each request.
Passwords are only ever generated (256 random bits, by `prepare`), which is why a fast comparison
is enough. Sessions are in memory: a restart signs people out.
"""

import base64
import binascii
import hashlib
import hmac
import html
import ipaddress
import json
import os
import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from aiohttp import web
from aiohttp.typedefs import Handler

PORT = 8000
# A file for each user, with the password.
PASSWORDS = Path("/run/sign-in-credentials")
# The edge shows operators the whole UI, and viewers one that changes nothing.
GROUPS = {"dagster": "dagster-operators", "viewer": "dagster-viewers"}
SESSION_SECONDS = 12 * 3600
# How many wrong passwords an address may try at once, and how long it waits for each further one.
GUESSES = 10
SECONDS_PER_GUESS = 30
# Of sessions, and of addresses: beyond it the oldest are forgotten.
MEMORY = 10_000
MAX_FORM_BYTES = 4096

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
FIELDS = """<p role="alert">{problem}</p><input type="hidden" name="next" value="{goal}">
<label>User <input name="user" value="dagster" autocomplete="username" required></label>
<label>Password <input name="password" type="password" autocomplete="current-password"
 autofocus required></label>"""
# The page needs its own style and its own form, and nothing from anywhere.
PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'"


class TooManyGuesses(Exception):
    """The address has to wait; the argument says how many seconds."""


class Guesses:
    """How many wrong passwords each address may still try.

    Whoever was right from an address before is not held up by others there: on one machine, and
    behind one router, everybody has the same address.
    """

    def __init__(self) -> None:
        self.left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self.right: OrderedDict[tuple[str, bytes], None] = OrderedDict()

    def seconds_to_wait(self, address: str) -> float:
        """How long until the address may guess again; 0 if it may now."""
        return max(0.0, (1 - self._left(address)) * SECONDS_PER_GUESS)

    def count_wrong(self, address: str) -> None:
        """Takes one guess from an address."""
        left = self._left(address)
        _put(self.left, address, (left - 1, time.monotonic()))

    def _left(self, address: str) -> float:
        left, since = self.left.get(address, (GUESSES, 0.0))
        return min(GUESSES, left + (time.monotonic() - since) / SECONDS_PER_GUESS)


class SignIn:
    """The users, their sessions, and what wrong passwords cost."""

    def __init__(self, users: Mapping[str, str], cookie: str) -> None:
        """Takes the users' passwords by name, and the name of the session's cookie."""
        self.digests = {user: _digest(user, password) for user, password in users.items()}
        self.cookie = cookie
        self.guesses = Guesses()
        self.sessions: OrderedDict[str, tuple[str, float]] = OrderedDict()

    def is_right(self, address: str, user: str, password: str) -> bool:
        """Whether the password is the user's.

        Raises:
            TooManyGuesses: Not looked at, because the address has had too many wrong ones.
        """
        given = _digest(user, password)
        seconds = self.guesses.seconds_to_wait(address)
        if seconds and (address, given) not in self.guesses.right:
            raise TooManyGuesses(int(seconds) + 1)
        if hmac.compare_digest(given, self.digests.get(user, b"")):
            _put(self.guesses.right, (address, given), None)
            return True
        self.guesses.count_wrong(address)
        say("wrong password", address=address, user=user[:80])
        return False

    def open_session(self, user: str) -> str:
        """Returns the new session's token."""
        token = secrets.token_urlsafe(32)
        _put(self.sessions, token, (user, time.monotonic() + SESSION_SECONDS))
        return token

    def user_of(self, token: str) -> str | None:
        """Whose session it is; None if it is nobody's, or over."""
        user, until = self.sessions.get(token, ("", 0.0))
        return user if time.monotonic() < until else None

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
        return _page("Sign in", FIELDS, goal=request.query.get("next", "/"), problem="")

    async def sign_in(self, request: web.Request) -> web.Response:
        """Opens a session and goes on to the page that was asked for."""
        posted = await request.post()
        user, password, goal = (str(posted.get(name, "")) for name in ("user", "password", "next"))
        if not self.is_right(_address(request), user, password):
            problem = "Wrong user or password"
            return _page("Sign in", FIELDS, status=401, goal=goal, problem=problem)
        say("signed in", address=_address(request), user=user)
        # A page of ours: to a browser `//host` and `/\host` are another host's.
        is_ours = goal.startswith("/") and goal[1:2] not in ("/", "\\")
        answer = web.Response(status=303, headers={"Location": goal if is_ours else "/"})
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

    async def show_sign_out(self, _: web.Request) -> web.Response:
        """The page to sign out on."""
        return _page("Sign out", "")

    async def sign_out(self, request: web.Request) -> web.Response:
        """Ends the session."""
        self.sessions.pop(request.cookies.get(self.cookie, ""), None)
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


def _put(memory: OrderedDict[Any, Any], key: object, value: object) -> None:
    memory[key] = value
    memory.move_to_end(key)
    if len(memory) > MEMORY:
        memory.popitem(last=False)


def _digest(user: str, password: str) -> bytes:
    return hashlib.sha256(f"{user}\0{password}".encode(errors="surrogateescape")).digest()


def _address(request: web.Request) -> str:
    """Where the client is, as the edge has it; of IPv6 the network, since each host has many."""
    forwarded = request.headers["X-Forwarded-For"].rpartition(",")[2].strip()
    address = ipaddress.ip_address(forwarded)
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
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return user, password


def _page(title: str, fields: str, status: int = 200, **values: str) -> web.Response:
    escaped = {name: html.escape(value) for name, value in values.items()}
    text = PAGE.format(title=title, fields=fields.format(**escaped))
    headers = {"Content-Security-Policy": PAGE_POLICY, "Cache-Control": "no-store"}
    return web.Response(status=status, text=text, content_type="text/html", headers=headers)


def main() -> None:
    """Serves until stopped; says where to sign in and how, for those who start without make."""
    users = {user: (PASSWORDS / user).read_text().strip() for user in GROUPS}
    print(
        f"sign in at {os.environ['UI_URL']} as dagster; the password:"
        f" docker compose exec sign_in cat {PASSWORDS / 'dagster'}",
        flush=True,
    )
    sign_in = SignIn(users, cookie=f"{os.environ['STACK_NAME']}-session")
    web.run_app(sign_in.application(), port=PORT, access_log=None, print=None)


if __name__ == "__main__":
    main()
