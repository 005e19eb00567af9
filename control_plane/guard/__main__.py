"""Relays the Docker API from a port on an internal network to the engine's socket.

The gap: the launcher needs the Docker API, the socket belongs to root and a group whose number
differs from host to host, and the webserver and the daemon run as neither. It does not look at
what it relays yet: whoever reaches it can do what root can. Only the webserver and the
daemon are on its network.
"""

import asyncio
import contextlib

SOCKET = "/var/run/docker.sock"
PORT = 2375


async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copies one client's connection to the engine and back, until either side ends it."""
    try:
        engine_reader, engine_writer = await asyncio.open_unix_connection(SOCKET)
        await asyncio.gather(_copy(reader, engine_writer), _copy(engine_reader, writer))
    except OSError as error:
        print(f"guard: {SOCKET}: {error}: is the Docker engine running?", flush=True)
    finally:
        writer.close()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while chunk := await source.read(65536):
            target.write(chunk)
            await target.drain()
    target.close()


async def main() -> None:
    """Serves until stopped."""
    server = await asyncio.start_server(relay, host="0.0.0.0", port=PORT)  # noqa: S104 # internal network
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
