"""Requests over HTTP/2, written as no client library would write them."""

import socket
import ssl
from collections import Counter

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, ResponseReceived, StreamEnded, StreamReset

AT_ONCE = 50
# Neither checked nor put into order on the way out.
AS_WRITTEN = H2Configuration(
    validate_outbound_headers=False, normalize_outbound_headers=False, header_encoding=None
)


class Connection:
    """One connection to the edge."""

    def __init__(self, address, host, authority):
        context = ssl.create_default_context(cadata=authority)
        context.set_alpn_protocols(["h2"])
        self.socket = context.wrap_socket(
            socket.create_connection(address, 30), server_hostname=host
        )
        assert self.socket.selected_alpn_protocol() == "h2"
        self.h2 = H2Connection(AS_WRITTEN)
        self.h2.initiate_connection()
        self.is_open = True

    def send(self, request, authorization):
        """Sends a request of request_fuzz.py; returns its stream's number."""
        method, target, headers, body = request
        hosts = [value for name, value in headers if name == b"Host"]
        fields = [(b":method", method), (b":scheme", b"https"), (b":path", target)]
        fields += [(b":authority", hosts[0])] if hosts else []
        fields += [(b"host", value) for value in hosts[1:]]
        fields += [(name.lower(), value) for name, value in headers if name != b"Host"]
        fields.append((b"authorization", authorization))
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, fields, end_stream=not body)
        if body:
            self.h2.send_data(stream, body, end_stream=True)
        return stream

    def answers(self, streams):
        """Reads until each stream has been answered or reset; returns status and body of each."""
        status, body, waiting = dict.fromkeys(streams, 0), dict.fromkeys(streams, b""), set(streams)
        self.socket.sendall(self.h2.data_to_send())
        while waiting and self.is_open:
            received = self.socket.recv(65536)
            self.is_open = bool(received)
            for event in self.h2.receive_data(received) if received else []:
                if isinstance(event, ResponseReceived):
                    status[event.stream_id] = int(dict(event.headers)[b":status"])
                elif isinstance(event, DataReceived):
                    body[event.stream_id] += event.data
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, StreamEnded | StreamReset):
                    waiting.discard(event.stream_id)
                elif isinstance(event, ConnectionTerminated):
                    self.is_open = False
            self.socket.sendall(self.h2.data_to_send())
        return [(status[stream], body[stream]) for stream in streams]


def fuzz(address, host, authority, requests, authorization):
    """Sends requests, many at once; returns the same as request_fuzz.py does."""
    seen = {"statuses": Counter(), "failed": [], "executed": [], "sent": 0}
    connection, left = None, list(requests)
    while left:
        batch, left = left[:AT_ONCE], left[AT_ONCE:]
        if not (connection and connection.is_open and seen["sent"] % 2000):
            connection = Connection(address, host, authority)
        streams = [connection.send(request, authorization) for request in batch]
        for request, (status, body) in zip(batch, connection.answers(streams), strict=True):
            seen["statuses"][status] += 1
            seen["sent"] += 1
            if status >= 500:
                seen["failed"].append([status, repr(request), repr(body[:200])])
            if b'"data"' in body[:200] or b"LaunchRunSuccess" in body:
                seen["executed"].append(repr(request))
    return seen
