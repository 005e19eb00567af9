"""Opens connections that are idle, slow or hostile; runs in a container.

Arguments: to what (a name of TARGETS), how many at a time, for how many seconds at most. Every one
that is closed is opened again. Says "begun" when each was opened once; in the end, by time or by
SIGINT, what became of them, in JSON.
"""

import asyncio
import json
import sys
from base64 import b64encode
from collections import Counter

HEAD = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
CREATE = b"/v1.45/containers/create"
BODY = b'{"Image": "alpine", "HostConfig": {"Privileged": true, "Binds": ["/:/host"]}}'
LONG = b"X: " + b"x" * 60_000
GUESS = b"Authorization: Basic " + b64encode(b"dagster:a guess")
NO_HTTP = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 no HTTP \r\n\r\n"


def get(path, *headers):
    return b"\r\n".join([b"GET %s HTTP/1.1" % path, b"Host: localhost", *headers, b"\r\n"])


# Where to, what a slow client never finishes, and what a hostile one sends.
TARGETS = {
    "guard": (
        ["/run/guard/launch/docker.sock", "/run/guard/stop/docker.sock"],
        HEAD % (CREATE, 131_000),
        [HEAD % (CREATE, len(BODY)) + BODY, get(b"/v1.45/containers/json"),
         get(b"/version", LONG), NO_HTTP],
    ),
    "edge": (
        [("edge", 8080)],
        HEAD % (b"/sign-in", 131_000),
        [get(b"/", GUESS), get(b"/graphql?query=mutation"), get(b"/", LONG), NO_HTTP],
    ),
}  # fmt: skip
places, unfinished, refused = TARGETS[sys.argv[1]]
seen = Counter()


async def idle(reader, writer, number):
    await reader.read()


async def slow(reader, writer, number):
    # Half of a head, or most of the largest body; then a byte a second.
    writer.write(unfinished + b" " * 130_000 if number // 3 % 4 else unfinished[:60])
    while not reader.at_eof():
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(1)


async def hostile(reader, writer, number):
    writer.write(refused[number // 3 % len(refused)])
    seen[(await reader.readline()).decode()[9:12]] += 1


async def connect(place):
    if isinstance(place, str):
        return await asyncio.open_unix_connection(place)
    return await asyncio.open_connection(*place)


async def client(number, begun):
    kind = (idle, slow, hostile)[number % 3]
    while True:
        writer = None
        try:
            reader, writer = await connect(places[number // 12 % len(places)])
            seen[kind.__name__] += 1
            begun.release()
            await kind(reader, writer, number)
        except OSError:
            seen["closed"] += 1
        finally:
            if writer:
                writer.close()
        # 2,000 clients of one process do not get round more often anyway.
        await asyncio.sleep(0.1)


async def main(count, seconds):
    begun = asyncio.Semaphore(0)
    clients = [asyncio.create_task(client(number, begun)) for number in range(count)]
    try:
        async with asyncio.timeout(seconds):
            for _ in clients:
                await begun.acquire()
            print("begun", flush=True)
            await asyncio.gather(*clients)
    finally:
        print(json.dumps(seen))


asyncio.run(main(*map(int, sys.argv[2:])))
