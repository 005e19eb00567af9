"""Opens connections to the guard's doors that are idle, slow or hostile; runs in a container.

Arguments: how many at a time, for how many seconds at most. Every one that the guard closes is
opened again. Says "begun" when each was opened once; in the end, by time or by SIGINT, what became
of them, in JSON.
"""

import asyncio
import json
import sys
from collections import Counter

DOORS = "guard-launch", "guard-stop"
CREATE = b"POST /v1.45/containers/create HTTP/1.1\r\nHost: guard\r\nContent-Length: %d\r\n\r\n"
BODY = b'{"Image": "alpine", "HostConfig": {"Privileged": true, "Binds": ["/:/host"]}}'
REFUSED = (
    CREATE % len(BODY) + BODY,
    b"GET /v1.45/containers/json HTTP/1.1\r\nHost: guard\r\n\r\n",
    b"GET /version HTTP/1.1\r\nX: " + b"x" * 60_000 + b"\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 no HTTP \r\n\r\n",
)
seen = Counter()


async def idle(reader, writer, number):
    await reader.read()


async def slow(reader, writer, number):
    # Half of a head, or most of the largest body; then a byte a second.
    head = CREATE % 131_000
    writer.write(head + b" " * 130_000 if number // 3 % 4 else head[:60])
    while not reader.at_eof():
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(1)


async def hostile(reader, writer, number):
    writer.write(REFUSED[number // 3 % len(REFUSED)])
    seen[(await reader.readline()).decode()[9:12]] += 1


async def client(number, begun):
    kind = (idle, slow, hostile)[number % 3]
    while True:
        writer = None
        try:
            reader, writer = await asyncio.open_connection(DOORS[number // 12 % 2], 2375)
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


asyncio.run(main(*map(int, sys.argv[1:])))
