"""Sends requests that are written in every odd way; a program of its own, also run in containers.

    request_fuzz.py SETTINGS

SETTINGS is JSON: `address` and `port`; `host`, the Host to send; `scheme`, http or https;
`authorization`; `mutation`, the body of a request that launches a run; `in_url`, the same as a
query string; `spellings`, every n-th of them; `as_the_ui`, whether to write requests as the web UI
does but for the path. Prints JSON: how many requests were sent, how often each status came back,
the requests that got none or a status of 500 and above, and those that executed GraphQL.

Each request would launch a run, or report an asset, if it were understood as it is meant, and none
is allowed to: its path, its shape or its origin is not the web UI's.
"""

import asyncio
import json
import sys
from collections import Counter

AT_ONCE = 24
SECONDS = 30
RUN = "00000000-0000-0000-0000-000000000000"
# What is spelt in other ways, and how much of it comes before the place in its middle.
GRAPHQL = b"/graphql"
OTHERS = {
    b"/report_asset_materialization/fuzzed": b"POST",
    b"/report_asset_check/fuzzed": b"POST",
    b"/runs": b"GET",
    b"/server_info": b"GET",
    b"/logs/" + RUN.encode() + b"/compute_logs/x/out": b"GET",
    b"/download_debug/" + RUN.encode(): b"GET",
    b"/favicon.png": b"GET",
    b"/notebook": b"GET",
}
BEFORE = (
    rb"/runs/.. /runs/. /. /.. / /runs/%2e%2e /runs%2f.. /runs\.. /runs/..; http://evil.example"
    rb" //evil.example http://evil.example:80/runs/.."
)
AFTER = (
    b"/ // /. /.. /../graphql ;x ;/ /%2e ? ?x=1 ?? ?op=A&op=B ?op=A%0A # #x %00 \xc2\xa0 %C2%A0"
    b" ?op=A;query=x ?op=%41"
)
# After or in place of a port.
ODD_PORTS = (
    rb"@evil.example :evil : :80x :0x50 :999999 # / \ ? %00 %2f ,evil.example .evil.example:80 ;"
)
JSON, FORM = b"application/json", b"application/x-www-form-urlencoded"
MULTIPART = b"multipart/form-data; boundary=b"
FOREIGN = b"http://evil.example"


def spellings(path):
    """The path with every byte before, inside and after it: raw, encoded once and encoded twice."""
    for byte in range(256):
        for code in (bytes([byte]), b"%%%02X" % byte, b"%%%02x" % byte, b"%%25%02X" % byte):
            yield b"/" + code + path[1:]
            yield code + path
            yield path[:4] + code + path[4:]
            yield path + code
    for before in BEFORE.split():
        yield before + path
    for after in AFTER.split():
        yield path + after
    for letters in (path.upper(), path.title(), path.replace(b"s", b"\xc5\xbf")):
        if letters != path:
            yield letters
    for place in range(1, len(path)):
        yield path[:place] + b"%%%02x" % path[place] + path[place + 1 :]


def shapes(settings):
    """Every way of writing a request that launches a run: method, query, headers, body."""
    mutation, in_url = settings["mutation"].encode(), settings["in_url"].encode()
    batch, own = b"[" + mutation + b"]", origin_of(settings, settings["host"].encode())
    query = json.loads(mutation)["query"].encode()
    form = in_url
    parts = b"".join(
        b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % part
        for part in ((b"operations", mutation), (b"query", query))
    )
    yield b"GET", in_url, {}, b""
    yield b"GET", in_url, {b"Accept": b"text/html"}, b""
    yield b"HEAD", in_url, {}, b""
    yield b"POST", in_url, {b"Content-Type": FORM}, b""
    yield b"POST", b"", {b"Content-Type": FORM}, form
    yield b"POST", b"", {b"Content-Type": MULTIPART}, parts + b"--b--\r\n"
    yield b"POST", b"", {b"Content-Type": b"text/plain"}, mutation
    yield b"POST", b"", {b"Content-Type": b"application/graphql"}, query
    yield b"POST", b"", {b"Content-Type": b"text/plain; application/json"}, mutation
    yield b"POST", b"", {b"Content-Type": JSON, b"Origin": FOREIGN}, mutation
    yield b"POST", b"", {b"Content-Type": JSON}, batch
    yield b"PUT", b"", {b"Content-Type": JSON}, mutation
    if settings["as_the_ui"]:
        yield b"POST", b"", {b"Content-Type": JSON, b"Origin": own}, mutation


def origin_of(settings, host):
    """The origin of pages that a host serves."""
    return settings["scheme"].encode() + b"://" + host


def odd_headers(settings):
    """Requests to the right path, whose Host or Origin two programs might read differently."""
    host = settings["host"].encode()
    name, port = host.rsplit(b":", 1)
    mutation = settings["mutation"].encode()
    ours, evil = origin_of(settings, host), origin_of(settings, name + b":evil")
    other_scheme = ours.replace(b"http:", b"https:") if b"http:" in ours else b"http://" + host
    pairs = [
        ([host], [evil]), ([host], [ours, FOREIGN]), ([host], [FOREIGN, ours]),
        ([host], [ours + b", " + FOREIGN]), ([host], [ours + b" " + FOREIGN]),
        ([host], [ours + b"@evil.example"]), ([host], [ours + b".evil.example"]),
        ([host], [ours + b"/"]), ([host], [ours.upper()]), ([host], [b"null"]), ([host], [b""]),
        ([host], [b"file://"]), ([host], [origin_of(settings, name)]), ([host], [other_scheme]),
        ([host, b"evil.example"], [ours]), ([b"evil.example", host], [FOREIGN]), ([], [FOREIGN]),
    ]  # fmt: skip
    # A page of another origin cannot choose Host; DNS rebinding and a port that means nothing can.
    odd_bytes = [bytes([byte]) for byte in range(1, 256) if byte not in b"\r\n0123456789"]
    for code in [*ODD_PORTS.split(), *odd_bytes[:: settings["spellings"]]]:
        for spelt in (name + code, host + code, name + b":" + code + port, code + host):
            # With white space around it, it is our own Host.
            if spelt.strip(b" \t") not in (host, name):
                pairs.append(([spelt], [origin_of(settings, spelt)]))
    for hosts, origins in pairs:
        headers = [(b"Host", one) for one in hosts] + [(b"Origin", one) for one in origins]
        yield b"POST", GRAPHQL, [*headers, (b"Content-Type", JSON)], mutation


def requests(settings):
    """Every request to send: method, target, headers in order, body."""
    host, every = (b"Host", settings["host"].encode()), settings["spellings"]
    for number, shape in enumerate(shapes(settings)):
        method, query, headers, body = shape
        is_ours = headers.get(b"Content-Type") == JSON and body[:1] == b"{" and method == b"POST"
        if not (is_ours and headers[b"Origin"] != FOREIGN):
            yield method, GRAPHQL + b"?" * bool(query) + query, [host, *headers.items()], body
        # Another part of the spellings for each shape; all of them are sent as a link and as JSON.
        step = 1 if number == 0 or (is_ours and headers[b"Origin"] != FOREIGN) else 8
        for spelt in list(spellings(GRAPHQL))[number % step :: step * every]:
            # What is the same path, with nothing or the operation's name behind the question mark.
            if spelt in (GRAPHQL, GRAPHQL + b"?"):
                continue
            mark = b"&" if b"?" in spelt else b"?"
            yield method, spelt + (mark + query if query else b""), [host, *headers.items()], body
    for path, method in OTHERS.items():
        body = b'{"metadata": {"by": "fuzz"}}' if method == b"POST" else b""
        kind = [(b"Content-Type", JSON)] if method == b"POST" else []
        yield method, path, [host, *kind], body
        for spelt in list(spellings(path))[:: 4 * every]:
            yield method, spelt, [host, *kind], body
    yield from odd_headers(settings)


def written(request, settings):
    """A request as bytes."""
    method, target, headers, body = request
    lines = [method + b" " + target + b" HTTP/1.1"]
    lines += [name + b": " + value for name, value in headers]
    lines.append(b"Authorization: " + settings["authorization"].encode())
    if body:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*lines, b"", b""]) + body


async def answered(reader, method):
    """Reads one answer; returns its status, its body, and whether the connection stays open."""
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head.split()[1])
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
    stays = fields.get(b"connection") != b"close" and head.startswith(b"HTTP/1.1")
    body = b""
    if method == b"HEAD" or status in (204, 304):
        pass
    elif b"content-length" in fields:
        body = await reader.readexactly(int(fields[b"content-length"]))
    elif fields.get(b"transfer-encoding") == b"chunked":
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)
    else:
        body, stays = await reader.read(), False
    return status, body, stays


async def client(queue, settings, seen):
    """Sends requests until none are left; a connection is used until it is closed."""
    reader = writer = None
    for request in queue:
        raw = written(request, settings)
        for attempt in (1, 2):
            used = writer is not None
            try:
                async with asyncio.timeout(SECONDS):
                    if not used:
                        where = settings["address"], settings["port"]
                        reader, writer = await asyncio.open_connection(*where, limit=2**20)
                    writer.write(raw)
                    status, body, stays = await answered(reader, request[0])
            except (OSError, EOFError, TimeoutError, ValueError) as error:
                # A connection that was closed before this request is opened once more.
                stays, status, body = False, 0, repr(error).encode()
            if not stays:
                writer.close() if writer else None
                reader = writer = None
            if status or not used or attempt == 2:
                break
        seen["statuses"][status] += 1
        shown = repr(raw[:300])
        if status == 0 or status >= 500:
            seen["failed"].append([status, shown, repr(body[:200])])
        if b'"data"' in body[:200] or b"LaunchRunSuccess" in body:
            seen["executed"].append(shown)


async def main(settings):
    """Sends all and prints what came back."""
    seen = {"statuses": Counter(), "failed": [], "executed": []}
    queue = iter(list(requests(settings)))
    await asyncio.gather(*(client(queue, settings, seen) for _ in range(AT_ONCE)))
    seen["sent"] = sum(seen["statuses"].values())
    print(json.dumps(seen))


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
