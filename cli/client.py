"""A client of a stack's GraphQL API. It sends requests to the edge, as the web UI does."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import ssl
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from cli.errors import StackError

HTTP_SECONDS = 60

LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}
"""
RUN = """
query Run($id: ID!) {
  runOrError(runId: $id) { ... on Run {
    status creationTime startTime endTime tags { key value }
  } }
}
"""
# The statuses that a run ends in.
FINAL = ("SUCCESS", "FAILURE", "CANCELED")
LOCATIONS = """
{ version workspaceOrError { ... on PythonError { message } ... on Workspace {
  locationEntries { name locationOrLoadError { __typename
    ... on RepositoryLocation { dagsterLibraryVersions { name version } }
    ... on PythonError { message errorChain { error { message } } } } } } } }
"""
REPOSITORIES = """
{ repositoriesOrError { ... on PythonError { message } ... on RepositoryConnection {
  nodes { name location { name } } } } }
"""
VARIABLES = """
query Variables($where: RepositorySelector!) { utilizedEnvVarsOrError(repositorySelector: $where) {
  ... on EnvVarWithConsumersList { results { envVarName envVarConsumers { name } } } } }
"""


@dataclass(frozen=True)
class Endpoint:
    """Where the edge is published.

    Attributes:
        host: An address of this machine.
        port: The published port.
        domain: The public name of the edge, if there is one. The edge then uses HTTPS.
    """

    host: str
    port: int
    domain: str | None

    @property
    def url(self) -> str:
        """The address of the web UI for programs on this machine."""
        if self.domain:
            return f"https://{self.domain}" + (f":{self.port}" if self.port != 443 else "")
        return f"http://{self.host}:{self.port}"

    def connection(self) -> http.client.HTTPConnection:
        """A connection to the published port, even if the domain resolves to another machine."""
        if self.domain:
            return _HTTPSConnection(self.domain, (self.host, self.port))
        return http.client.HTTPConnection(self.host, self.port, timeout=HTTP_SECONDS)


class Client:
    """The API, for one user."""

    def __init__(self, endpoint: Endpoint, user: str, password: str) -> None:
        """Stores the arguments. Does not connect yet."""
        self.endpoint = endpoint
        self.where = endpoint.url
        self.authorization = basic(user, password)

    def graphql(self, query: str, **variables: object) -> dict[str, Any]:
        """Sends a query to the web server.

        Returns:
            The `data` of the response.

        Raises:
            StackError: The web server does not answer, or the response contains errors.
        """
        status, text = self.post(json.dumps({"query": query, "variables": variables}))
        if status == 401:
            raise StackError(
                f"{self.where} refuses the password that is stored (401). If a rotation was"
                " interrupted: make rotate"
            )
        answer: dict[str, Any] = {}
        with suppress(ValueError):  # of the edge, it is a line of text
            answer = json.loads(text)
        if status != 200 or "data" not in answer or answer.get("errors"):
            # Dagster's errors have stack traces.
            said: str = answer["errors"][0]["message"] if answer.get("errors") else text
            first = said.strip().partition("\n")[0]
            raise StackError(f"GraphQL at {self.where}: {status}: {first}")
        return answer["data"]

    def post(self, body: str) -> tuple[int, str]:
        """Sends a request; returns the status and text of the answer, or raises StackError."""
        connection = self.endpoint.connection()
        headers = {"Content-Type": "application/json", "Authorization": self.authorization}
        try:
            connection.request("POST", "/graphql", body, headers)
            response = connection.getresponse()
            return response.status, response.read().decode()
        except OSError as error:
            raise StackError(f"GraphQL at {self.where}: {error}: is the stack up?") from None
        finally:
            connection.close()

    def launch(
        self,
        job: str,
        assets: Sequence[str] = (),
        config: Mapping[str, Any] | None = None,
        location: str = "code_location",
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """Launches a job.

        Args:
            job: The name of the job. `__ASSET_JOB` is the job for any selection of assets.
            assets: Only these assets of an asset job. The default is all.
            config: The run's configuration.
            location: The code location that the job is in.
            tags: The run's tags. `dagster/partition` is the key of the partition.

        Returns:
            The run ID.

        Raises:
            StackError: The job was not launched.
        """
        selector = {
            "repositoryLocationName": location,
            "repositoryName": "__repository__",
            "jobName": job,
            "assetSelection": [{"path": [asset]} for asset in assets] or None,
        }
        params: dict[str, Any] = {"selector": selector, "runConfigData": config or {}}
        if tags:
            listed = [{"key": key, "value": value} for key, value in tags.items()]
            params["executionMetadata"] = {"tags": listed}
        answer = self.graphql(LAUNCH, params=params)
        if answer["launchRun"]["__typename"] != "LaunchRunSuccess":
            raise StackError(f"{job} was not launched: {json.dumps(answer['launchRun'])}")
        return answer["launchRun"]["run"]["runId"]


class _HTTPSConnection(http.client.HTTPSConnection):
    """Connects to an address, and checks the certificate for the name of another host."""

    def __init__(self, host: str, at: tuple[str, int]) -> None:
        super().__init__(host, at[1], timeout=HTTP_SECONDS)
        self.at = at

    def connect(self) -> None:
        plain = socket.create_connection(self.at, self.timeout)
        self.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=self.host)


def basic(user: str, password: str) -> str:
    """The header that an API client signs in with."""
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"
