"""The web server of a stack on a cluster, asked from inside of its pod."""

from __future__ import annotations

import json
from collections.abc import Callable

from cli.client import Client
from cli.errors import StackError

# It prints the status and the text of the answer, as JSON.
PROGRAM = """
import json, os, sys, urllib.error, urllib.request
url = f"http://{os.environ['POD_IP']}:3000/graphql"
asked = urllib.request.Request(url, sys.stdin.buffer.read(), {"Content-Type": "application/json"})
try:
    answer = urllib.request.urlopen(asked, timeout=60)
except urllib.error.HTTPError as refused:
    answer = refused
print(json.dumps([answer.status, answer.read().decode()]))
"""


class PodClient(Client):
    """The API, as it is behind the sign-in."""

    def __init__(self, execute: Callable[..., str], where: str = "deployment/webserver") -> None:
        """Takes Cluster.execute, and a pod, or the Deployment for any of its pods."""
        self.execute = execute
        self.where = where

    def post(self, body: str) -> tuple[int, str]:
        """Sends a request: see Client.post."""
        try:
            said = self.execute(self.where, "python", "-c", PROGRAM, given=body)
        except StackError as error:
            raise StackError(f"GraphQL at {self.where}: {error}") from None
        status, text = json.loads(said)
        return status, text
