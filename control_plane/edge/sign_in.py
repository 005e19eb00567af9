"""Sign-in page and session check. The edge asks it about every request (Caddy's `forward_auth`).

The gap: Dagster's web server has no sign-in. Caddy's own sign-in (`basic_auth`) has no page, no
sign-out and no limit on guesses. It takes most of a second of CPU time for each guess, so a few
hundred guesses stop the work of all users. Any identity provider that supports `forward_auth` can
replace this module (docs/how-to/single-sign-on.md): it implements the same protocol.

Users sign in on a page and get a session. API clients send Basic credentials with each request.
All passwords are generated (256 random bits, by `prepare`), so a fast comparison is safe. A
session is a signed cookie, so it outlives a restart; a new password ends all sessions of its user.
One that was signed out stays ended as long as this process runs.
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
# One file per user, which contains the password.
PASSWORDS = Path("/run/sign-in-credentials")
# The edge forwards operators to the web server and viewers to the read-only web server.
GROUPS = {"dagster": "dagster-operators", "viewer": "dagster-viewers"}
SESSION_SECONDS = 12 * 3600
# A first start takes half a minute on two cores.
SECONDS_TO_START = 120
# An address may try this many wrong passwords at once, and then one more after each interval.
GUESSES = 10
SECONDS_PER_GUESS = 30
# The most addresses whose wrong passwords are remembered. A new one replaces the oldest.
MAX_ADDRESSES = 10_000
# For each user: the most addresses that the user has signed in from, and the most sessions that
# were signed out. A new one replaces the user's own oldest, never that of another user.
MAX_PER_USER, MAX_ENDED = 500, 10_000
MAX_FORM_BYTES = 4096
# Where a browser may be redirected after sign-in: a path of this origin, in printable ASCII.
# Browsers take `//host`, `/\host` and `/<tab>/host` for other hosts.
NEXT_PATH = re.compile(r"/([!-.0-[\]-~][!-[\]-~]*)?")

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Dagster: {title}</title>
<style>
 :root {{ color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif }}
 body {{ display: grid; place-items: center; min-height: 100vh; margin: 0 }}
 form {{ display: grid; gap: 16px; box-sizing: border-box; width: min(380px, 94vw); padding: 32px;
  border: 1px solid #8884; border-radius: 12px; box-shadow: 0 2px 12px #0002 }}
 h1 {{ font-size: 22px; margin: 0 }}
 label {{ display: grid; gap: 4px; font-weight: 500 }}
 input, button {{ font: inherit; padding: 9px 12px; border: 1px solid #8888; border-radius: 8px }}
 button {{ background: #4f43dd; border-color: #4f43dd; color: #fff; font-weight: 600 }}
 p {{ margin: 0; font-size: 13px; overflow-wrap: anywhere }}
 [role=alert] {{ color: light-dark(#b00020, #ff8095); font-size: inherit }}
 [role=alert]:empty {{ display: none }}
</style>
<form method="post"><h1>Dagster</h1>{fields}<button>{title}</button>{note}</form></html>
"""
FIELDS = """<p role="alert">{problem}</p>{hint}<input type="hidden" name="next" value="{next_path}">
<label>User <input name="user" value="dagster" autocomplete="username" required></label>
<label>Password <input name="password" type="password" autocomplete="current-password"
 autofocus required></label>"""
HELP = f"""<p>The password: run <code>make credentials</code> or <code>docker compose exec sign_in
 cat {PASSWORDS}/dagster</code> where the stack was started. To sign out, open <a
 href="/sign-out">/sign-out</a>.</p>"""
# Browsers send a cookie to every port of a host. On a loopback address, every other server that the
# user visits would get the session cookie. Only this stack uses the stack's own host name.
HINT = """<p>Sign in at <a href="{url}/sign-in">{url}</a> instead: at this address, other servers on
this machine also get your session.</p>"""
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
# The page uses its own style and its own form, and loads nothing.
PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'"


class TooManyGuesses(Exception):
    """The address must wait. The argument is the number of seconds."""


class Guesses:
    """The number of wrong passwords that each address may still try.

    A user who has signed in from an address before is exempt from its rate limit: on one machine,
    and behind one router, all users have the same address.
    """

    def __init__(self, users: Iterable[str]) -> None:
        # For each address: the guesses that remained, and the time of the last wrong one.
        self.remaining_since: OrderedDict[str, tuple[float, float]] = OrderedDict()
        # For each user: the address and the digest of each correct sign-in.
        self.correct: dict[str, OrderedDict[tuple[str, bytes], None]]
        self.correct = {user: OrderedDict() for user in users}

    def seconds_to_wait(self, address: str) -> float:
        """The time until the address may guess again; 0 if it may guess now."""
        return max(0.0, (1 - self.remaining(address)) * SECONDS_PER_GUESS)

    def count_wrong(self, address: str) -> None:
        """Takes one guess from an address."""
        entry = (self.remaining(address) - 1, time.monotonic())
        _put(self.remaining_since, address, entry, MAX_ADDRESSES)

    def remaining(self, address: str) -> float:
        """The number of wrong passwords that the address may try now."""
        remaining, since = self.remaining_since.get(address, (GUESSES, 0.0))
        return min(GUESSES, remaining + (time.monotonic() - since) / SECONDS_PER_GUESS)


class SignIn:
    """The users, their sessions, and the limit on wrong passwords."""

    def __init__(self, users: Mapping[str, str], cookie: str, ui_url: str = "") -> None:
        """Takes each user's password, the name of the session cookie, and UI_URL."""
        self.ui_url = ui_url
        self.digests = {user: _digest(user, password) for user, password in users.items()}
        self.cookie = cookie
        self.guesses = Guesses(users)
        # For each user: what signs sessions. It is different after a rotation.
        self.keys = {
            user: hmac.digest(password.encode(), b"sessions", "sha256")
            for user, password in users.items()
        }
        # For each user: the sessions that were signed out.
        self.ended: dict[str, OrderedDict[str, None]] = {user: OrderedDict() for user in users}

    def is_correct(self, address: str, user: str, password: str) -> bool:
        """Whether this is the user's password.

        Raises:
            TooManyGuesses: The address must wait; this password is not checked.
        """
        given = _digest(user, password)
        seconds = self.guesses.seconds_to_wait(address)
        if seconds and (address, given) not in self.guesses.correct.get(user, ()):
            raise TooManyGuesses(int(seconds) + 1)
        if hmac.compare_digest(given, self.digests.get(user, b"")):
            _put(self.guesses.correct[user], (address, given), None, MAX_PER_USER)
            return True
        self.guesses.count_wrong(address)
        say("wrong password", address=address, user=user[:80])
        return False

    def open_session(self, user: str) -> str:
        """Returns the token of a new session: its user, its end in Unix time, and a signature."""
        until = int(time.time()) + SESSION_SECONDS
        content = f"{user}.{until}.{secrets.token_urlsafe(16)}"
        return f"{content}.{self._signature(user, content)}"

    def user_of(self, token: str) -> str | None:
        """The user of a session; None if it is not one of ours, or has ended."""
        content, _, signature = token.rpartition(".")
        user = content.partition(".")[0]
        if user not in self.keys:
            return None
        expected = self._signature(user, content)
        if not hmac.compare_digest(_bytes(signature), _bytes(expected)):
            return None
        until = int(content.split(".")[1])
        return user if time.time() < until and token not in self.ended[user] else None

    def _signature(self, user: str, content: str) -> str:
        return hmac.digest(self.keys[user], _bytes(content), "sha256").hex()

    async def verify(self, request: web.Request) -> web.Response:
        """Answers the edge. On 2xx the edge forwards the request; else it returns this response."""
        user = self.user_of(request.cookies.get(self.cookie, ""))
        credentials = _basic(request.headers.get("Authorization", ""))
        if user is None and credentials and self.is_correct(_address(request), *credentials):
            user = credentials[0]
        if user is not None:
            return web.Response(headers={"Remote-User": user, "Remote-Groups": GROUPS[user]})
        if "text/html" in request.headers.get("Accept", "") and not credentials:
            next_path = quote(request.headers.get("X-Forwarded-Uri", "/"), safe="")
            return web.Response(status=303, headers={"Location": f"/sign-in?next={next_path}"})
        return web.Response(
            status=401,
            # With this header a browser opens its own sign-in window, also for a page's requests.
            headers={} if "Sec-Fetch-Mode" in request.headers else {"WWW-Authenticate": "Basic"},
            text="sign in with Basic credentials or at /sign-in; `make credentials` prints them\n",
        )

    async def show_sign_in(self, request: web.Request) -> web.Response:
        """Returns the sign-in page."""
        return self._sign_in_page(request, request.query.get("next", "/"))

    async def sign_in(self, request: web.Request) -> web.Response:
        """Opens a session and redirects to the page that was requested."""
        posted = await _form(request)
        user, password, next_path = (posted.get(name, "") for name in ("user", "password", "next"))
        if not self.is_correct(_address(request), user, password):
            return self._sign_in_page(request, next_path, "Wrong user or password")
        say("signed in", address=_address(request), user=user)
        target = next_path if NEXT_PATH.fullmatch(next_path) else "/"
        answer = web.Response(status=303, headers={"Location": target})
        answer.set_cookie(
            self.cookie,
            self.open_session(user),
            max_age=SESSION_SECONDS,
            httponly=True,
            # Not Strict: a link in a notification must open its run, not the sign-in page.
            samesite="Lax",
            secure=request.headers.get("X-Forwarded-Proto") == "https",
        )
        return answer

    def _sign_in_page(
        self, request: web.Request, next_path: str, problem: str = ""
    ) -> web.Response:
        name = request.host.rpartition(":")[0] or request.host
        is_shared = name in LOOPBACK and urlsplit(self.ui_url).hostname not in LOOPBACK
        hint = HINT.format(url=html.escape(self.ui_url)) if is_shared else ""
        escaped = {"next_path": html.escape(next_path), "problem": problem, "hint": hint}
        status = 401 if problem else 200
        return _page("Sign in", FIELDS.format(**escaped), HELP, status)

    async def show_sign_out(self, _: web.Request) -> web.Response:
        """Returns the sign-out page."""
        return _page("Sign out", "")

    async def sign_out(self, request: web.Request) -> web.Response:
        """Ends the session. The relay then closes its WebSockets (websocket_relay.py)."""
        token = request.cookies.get(self.cookie, "")
        user = self.user_of(token)
        if user:
            _put(self.ended[user], token, None, MAX_ENDED)
        answer = web.Response(status=303, headers={"Location": "/sign-in"})
        answer.del_cookie(self.cookie)
        return answer

    def application(self) -> web.Application:
        """The routes that the edge forwards to."""
        application = web.Application(client_max_size=MAX_FORM_BYTES, middlewares=[_limit])
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
async def _limit(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except TooManyGuesses as seconds:
        text = f"too many wrong passwords from this address: wait {seconds} s\n"
        return web.Response(status=429, headers={"Retry-After": str(seconds)}, text=text)


def say(event: str, **details: str) -> None:
    """Writes one line of JSON to the log."""
    print(json.dumps({"event": event, **details}), flush=True)


def _put(entries: OrderedDict[Any, Any], key: object, value: object, most: int) -> None:
    """Adds or renews an entry; beyond `most` it removes the oldest one."""
    entries[key] = value
    entries.move_to_end(key)
    if len(entries) > most:
        entries.popitem(last=False)


async def _form(request: web.Request) -> dict[str, str]:
    """The fields of a posted form. If a field occurs twice, the last one counts.

    Raises:
        HTTPBadRequest: The body is not what a browser sends for the form of the sign-in page.
    """
    try:
        if request.headers.getall("Content-Type") != ["application/x-www-form-urlencoded"]:
            raise ValueError("not a form")
        return dict(parse_qsl((await request.read()).decode(), max_num_fields=10))
    except (KeyError, ValueError):
        raise web.HTTPBadRequest(text="not the form of the sign-in page\n") from None


def _bytes(text: str) -> bytes:
    """Of a request, which may have bytes that are no text."""
    return text.encode(errors="surrogateescape")


def _digest(user: str, password: str) -> bytes:
    return hashlib.sha256(_bytes(f"{user}\0{password}")).digest()


def _address(request: web.Request) -> str:
    """The client's address, as the edge reports it; for IPv6 its /64 network."""
    forwarded = request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()
    try:
        address = ipaddress.ip_address(forwarded)
    except ValueError:
        raise web.HTTPBadRequest(text="X-Forwarded-For is missing or not an address\n") from None
    if address.version == 4:
        return str(address)
    return str(ipaddress.ip_network((address, 64), strict=False))


def _basic(header: str) -> tuple[str, str] | None:
    """User and password of an Authorization header; None if it has another scheme."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except ValueError:  # not base64, not ASCII or not UTF-8
        return "", ""
    return user, password


def _page(title: str, fields: str, note: str = "", status: int = 200) -> web.Response:
    text = PAGE.format(title=title, fields=fields, note=note)
    headers = {"Content-Security-Policy": PAGE_POLICY, "Cache-Control": "no-store"}
    return web.Response(status=status, text=text, content_type="text/html", headers=headers)


async def _announce(_: web.Application) -> AsyncIterator[None]:
    """Prints where and how to sign in when the edge answers. `docker compose up` ends with it."""

    async def say_when_ready() -> None:
        try:
            await asyncio.wait_for(edge_answers(), SECONDS_TO_START)
        except TimeoutError:
            print("The web UI does not answer yet: docker compose ps --all shows why", flush=True)
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
    """Serves until it is stopped."""
    users = {user: (PASSWORDS / user).read_text().strip() for user in GROUPS}
    sign_in = SignIn(users, f"{os.environ['STACK_NAME']}-session", os.environ["UI_URL"])
    application = sign_in.application()
    application.on_startup.append(start_relay)
    application.cleanup_ctx.append(_announce)
    web.run_app(application, port=PORT, access_log=None, print=None)


if __name__ == "__main__":
    main()
