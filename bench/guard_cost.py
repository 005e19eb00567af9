#!/usr/bin/env python3
"""Measures what the guard adds to a launch: the same API calls, directly and through the guard.

Needs a running stack. A temporary container of the guard's image makes the calls. It mounts the
engine's socket and the socket of the guard's launch listener. It starts no container. Instead of
`start` it measures a `stop` of a container that does not run, and a list of live run containers:
that is what the guard adds to `start`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import report
from cli.errors import StackError
from cli.stack import Stack, docker

ROUNDS = 100
LIMIT_MS = 20

CLIENT = """
import http.client, json, os, socket, sys, time, yaml
from urllib.parse import quote
from control_plane.guard.policy import JOB_LABEL, JOB_VARIABLE, RUN_LABEL, Policy

class Engine(http.client.HTTPConnection):
    def __init__(self, path="/var/run/docker.sock"):
        super().__init__("engine")
        self.path = path
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)

config = yaml.safe_load(open("dagster.yaml"))["run_launcher"]["config"]
image = os.environ["STACK_NAME"] + "-code:current"
policy = Policy.from_launcher(config, os.environ)
run = "00000000-0000-0000-0000-000000000000"
body = json.dumps({
    "Image": image, "Cmd": ["dagster", "api", "execute_run", "x" * 5000],
    "Env": [JOB_VARIABLE + "=bench"], "HostConfig": dict(policy.host),
    "Labels": {**policy.labels, RUN_LABEL: run, JOB_LABEL: "bench"},
})

def launch(way):
    times, connection = {}, ways[way]()
    def call(name, method, path, body=None):
        start = time.perf_counter()
        connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        times[name] = 1000 * (time.perf_counter() - start)
        assert answer.status < 400, text
        return json.loads(text or b"null")
    call("version", "GET", "/version")
    made = call("create", "POST", "/v1.45/containers/create", body)
    container = "/v1.45/containers/" + made["Id"]
    call("inspect", "GET", container + "/json")
    call("stop, for start", "POST", container + "/stop")
    times["list, for start"] = 0.0
    if way == "guard":
        connection = Engine()
        alive = {"label": ["dagster/stack=" + os.environ["STACK_NAME"]], "status": ["running"]}
        query = "?filters=" + quote(json.dumps(alive))
        call("list, for start", "GET", "/v1.45/containers/json" + query)
    engine = Engine()
    engine.request("DELETE", container)
    assert engine.getresponse().status == 204
    return times

ways = {
    "direct": Engine,
    "guard": lambda: Engine("/run/guard/docker.sock"),
}
print(json.dumps([[launch(way) for way in ways] for _ in range(int(sys.argv[1]))]))
"""


def main() -> None:
    """Exits with status 1 when a call fails or the guard adds more than LIMIT_MS."""
    stack = Stack()
    try:
        told = docker(
            "run", "--rm", "--user=0:0", f"--env=STACK_NAME={stack.name}",
            f"--volume={stack.name}_guard-launch:/run/guard:ro", "--network=none",
            "--volume=/var/run/docker.sock:/var/run/docker.sock",
            stack.config["services"]["guard"]["image"], "python", "-c", CLIENT, str(ROUNDS),
        )  # fmt: skip
    except StackError as error:
        sys.exit(f"bench: {error}")
    rounds: list[list[dict[str, float]]] = json.loads(told)
    lines = [["call", "direct ms", "through the guard ms", "added ms"]]
    added = 0.0
    for call in (*rounds[0][0], "launch"):
        direct, guarded = (
            median(sum(times.values()) if call == "launch" else times[call] for times in way)
            for way in zip(*rounds, strict=True)
        )
        added = guarded - direct
        lines.append([call, f"{direct:.1f}", f"{guarded:.1f}", f"{added:.1f}"])
    report.write(
        "The guard's cost per launch",
        f"Medians of {ROUNDS} launches, alternately directly and through the guard. A launch is the"
        " sum of its calls. No container is started. Instead of `start`, the table has a `stop` of"
        " a container that does not run, and a list of live run containers: that is what the guard"
        " adds to `start`. The guard caches the engine's version for half a minute.",
        lines,
    )
    if added > LIMIT_MS:
        sys.exit(f"bench: the guard adds {added:.1f} ms to a launch, the limit is {LIMIT_MS} ms")


if __name__ == "__main__":
    main()
