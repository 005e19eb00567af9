"""Requests to create a run container: the one that the launcher sends, and mutations of it."""

import json
from unittest.mock import patch

import docker
import yaml
from docker.models.containers import _create_container_args
from hypothesis import strategies as st

from control_plane.guard.policy import COMMANDS, RESOURCES
from support import ROOT

LAUNCHER = yaml.safe_load((ROOT / "dagster.yaml").read_text())["run_launcher"]["config"]
RUN = "46dd5bf8-3beb-41a9-a386-7fa75cfbf640"
KNOWN = ["Image", "Cmd", "Env", "Labels", "User", "Entrypoint", "Volumes", "HostConfig"]
HOST = ["Privileged", "Binds", "Mounts", "CapAdd", "CapDrop", "PidMode", "NetworkMode"]
HOST += [*RESOURCES, "ReadonlyRootfs", "Tmpfs"]


def launcher_request(stack, image, location="code_location"):
    """What DockerRunLauncher really sends, as the Docker SDK writes it."""
    filled = json.dumps(LAUNCHER).replace("${STACK_NAME}", stack)
    config = json.loads(filled.replace("${LOCATION}", location))
    kwargs = config["container_kwargs"]
    kwargs.pop("stop_timeout")
    labels = {**kwargs.pop("labels"), "dagster/run_id": RUN, "dagster/job_name": "process_numbers"}
    client = docker.APIClient(version="1.45", base_url="tcp://nowhere:1")
    arguments = dict(
        image=image, command=["dagster", "api", "execute_run", "{}"], detach=True,
        environment={"DAGSTER_RUN_JOB_NAME": "process_numbers", "NOTIFICATION_WEBHOOK_URL": ""},
        network=config["networks"][0], labels=labels, version="1.45", **kwargs,
    )  # fmt: skip
    with patch.object(client, "create_container_from_config") as create:
        client.create_container(**_create_container_args(arguments))
    return json.loads(json.dumps(create.call_args.args[0]))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(["blue-code:current", "/:/h"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


def fields(known):
    """Some values for known names, in any case, and for others."""
    names = st.sampled_from(known + [name.lower() for name in known]) | st.text(max_size=8)
    return st.dictionaries(names, JSON, max_size=2)


NOTHING = st.sampled_from([None, False, "", [], {}])
VARIABLES = st.sampled_from(["DAGSTER_RUN_JOB_NAME=x", "NOTIFICATION_WEBHOOK_URL=http://x"])


def mutations():
    """Changes to a request: above, in HostConfig, and names that go."""
    anything = st.tuples(fields(KNOWN), fields(HOST), st.sets(st.sampled_from(KNOWN), max_size=1))
    # Mostly those that the policy has nothing against.
    accepted = st.tuples(
        st.fixed_dictionaries(
            {"Cmd": st.tuples(st.sampled_from(COMMANDS), st.text(max_size=8)).map(
                lambda words: [*words[0], words[1]]),
             "Env": st.lists(VARIABLES, max_size=2)},
            optional={"User": NOTHING, "Entrypoint": NOTHING, "X": NOTHING},
        ),
        st.fixed_dictionaries({}, optional={
            "Memory": st.integers(2**24, 2**31), "NanoCpus": st.integers(2**24, 2**31),
            "PidsLimit": st.integers(1, 1000), "CapAdd": NOTHING, "Devices": NOTHING,
        }),
        st.sets(st.sampled_from(["Volumes", "NetworkingConfig"]), max_size=1),
    )  # fmt: skip
    return anything | accepted


def mutated(request, mutation):
    above, below, gone = mutation
    changed = {**request, "HostConfig": {**request["HostConfig"], **below}, **above}
    return {name: value for name, value in changed.items() if name not in gone}
