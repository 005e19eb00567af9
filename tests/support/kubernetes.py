"""A Kubernetes cluster on this machine, with nothing in it mocked: a container for each node.

kind, k3d and minikube do the same with images from a registry, which not every machine reaches.
Here Kubernetes is built from its Go modules (cluster/kubernetes/), once a machine: the image stays.
"""

import base64
import hashlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from support import ROOT
from support.cli import docker
from support.harness import wait_until

SOURCES = ROOT / "tests/cluster/kubernetes"
NODES = 3
TARGETS = "node", "pause", "registry"
PROJECT = "com.docker.compose.project"
STORE_CONFIG = """[default]
bucket = kept/here
aws_access_key_id = key
aws_secret_access_key = secret
endpoint_url = http://{}:9000
"""
STORE = "mkdir -p /data/kept && exec rclone serve s3 /data --addr :9000 --auth-key key,secret"


def images():
    """The images of a node, a pod's first process and a registry; builds what is not there."""
    files = sorted(file for file in SOURCES.rglob("*") if file.is_file())
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
    made = {target: f"kubernetes-{target}:{digest}" for target in TARGETS}
    settings = (ROOT / ".machine.env").read_text()
    machine = dict(line.split("=", 1) for line in settings.splitlines() if "=" in line)
    is_standin = machine["PYTHON_IMAGE"].startswith("standin/")
    debian = "standin/debian:trixie" if is_standin else "debian:trixie-slim"
    for target, image in made.items():
        if docker("image", "ls", "--quiet", image):
            continue
        print(f"building {image}, ten minutes the first time", flush=True)
        subprocess.run(
            [
                "docker", "build", "--quiet", f"--target={target}", f"--tag={image}",
                f"--build-arg=DEBIAN_IMAGE={debian}",
                f"--build-arg=GOPROXY={os.environ.get('GOPROXY', '')}",
                f"--secret=id=ca_bundle,src={machine['CA_BUNDLE']}", SOURCES,
            ],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
    return made


class Cluster:
    """Three nodes in the addresses of a stack that Compose does not start, and a bucket."""

    def __init__(self, stack):
        """Makes the nodes, and gives the stack's commands kubectl and the settings for it."""
        self.stack, self.name = stack, stack.name_on_cluster
        # Behind the networks of the stack, which may be up on this machine.
        self.network = str(stack.lease.block[3 * 256]).rpartition(".")[0]
        self.images = images()
        self.keys = stack.root.parent / f"{self.name}-keys"
        self.keys.mkdir()
        self.forwarding = None
        label = f"--label={PROJECT}={self.name}"
        docker("network", "create", label, f"--subnet={self.network}.0/26", self.name)
        docker("volume", "create", label, self.name)
        keys = f"--volume={self.keys}:/keys"
        image = self.images["node"]
        script = "--entrypoint=/opt/kubernetes/keys.sh"
        docker("run", "--rm", label, keys, script, image, self.network, str(NODES))
        for number in range(NODES):
            docker(
                "run", "--detach", label, f"--name={self.node(number)}", "--privileged",
                "--cgroupns=private", f"--hostname=node{number}", f"--network={self.name}",
                f"--ip={self.network}.1{number}", f"{keys}:ro", "--tmpfs=/run", "--tmpfs=/tmp",
                *(f"--volume=/var/lib/{one}" for one in ("containerd", "kubelet", "etcd")),
                f"--volume={self.name}:/var/lib/volume",
                image, self.network, str(number), str(NODES),
            )  # fmt: skip
        folder = stack.root / "bin"
        folder.mkdir()
        docker("cp", f"{self.node(0)}:/opt/kubernetes/kubernetes", str(folder / "kubectl"))
        stack.environment |= {
            "PATH": f"{folder}:{stack.environment['PATH']}",
            "KUBECONFIG": str(self.keys / "admin.conf"),
        }
        wait_until(lambda: self.ready() == NODES, "the nodes")
        docker("tag", self.images["pause"], "test/pause:1")
        saved = subprocess.run(["docker", "save", "test/pause:1"], capture_output=True, check=True)
        self.import_images(saved.stdout)
        # Its pod has that image.
        self.kubectl("apply", f"--filename={SOURCES / 'first.yaml'}")

    def node(self, number):
        """The container of a node."""
        return f"{self.name}-node{number}"

    def kubectl(self, *arguments, given=None, check=True):
        """What kubectl prints."""
        done = subprocess.run(
            ["kubectl", *arguments], env=self.stack.environment, input=given,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if check:
            assert done.returncode == 0, f"{arguments}: {done.stderr}"
            return done.stdout
        return done.stdout + done.stderr

    def ready(self):
        """How many nodes are ready."""
        column = "--output=jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}"
        return self.kubectl("get", "nodes", column, check=False).split().count("True")

    def start_store(self):
        """A server of S3 beside the cluster; returns the text of its settings file."""
        self.stack.compose("--profile", "warehouse", "build", "s3")
        address = f"{self.network}.50"
        docker(
            "run", "--detach", f"--label={PROJECT}={self.name}", f"--name={self.name}-store",
            f"--network={self.name}", f"--ip={address}", "--user=0:0",
            f"{self.name}-stores:current", "sh", "-c", f"{STORE} --config /dev/null",
        )  # fmt: skip
        return STORE_CONFIG.format(address)

    def start_registry(self):
        """A registry beside the cluster, by the name that the engine of this machine has for it."""
        name = f"{self.name}-registry"
        docker(
            "run", "--detach", f"--label={PROJECT}={self.name}", f"--name={name}",
            f"--network={self.name}", f"--ip={self.network}.60", "--publish=127.0.0.1::5000",
            self.images["registry"],
        )  # fmt: skip
        return docker("port", name, "5000").strip()

    def import_images(self, archive):
        """Puts an archive of images on each node, as where there is no registry."""
        for number in range(NODES):
            command = ["docker", "exec", "--interactive", self.node(number)]
            ctr = ["ctr", "--namespace=k8s.io", "images", "import", "-"]
            subprocess.run([*command, *ctr], input=archive, capture_output=True, check=True)

    def import_stack(self):
        """Builds the images of the stack, and puts them on each node."""
        done = subprocess.run(
            ["./stack", "cluster-images"], cwd=self.stack.root, env=self.stack.environment,
            capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
        self.import_images(done.stdout)

    def processes(self, number, text):
        """How many processes of a node have a text in their command line."""
        command = "docker", "exec", self.node(number), "pgrep", "--count", "--full", text
        return int(subprocess.run(command, capture_output=True, check=False).stdout)

    def sql(self, query):
        """One value from the database of the stack."""
        psql = "psql", "--username=postgres", "--dbname=dagster", "--tuples-only", "--command"
        words = "exec", *self.own, "statefulset/postgres", "--", *psql, query
        return self.kubectl(*words).strip()

    def sign_in(self):
        """Gives the tests the operator's password, which the cluster has in a Secret."""
        secret = "get", "secret", "sign-in-credentials", *self.own
        encoded = self.kubectl(*secret, "--output=jsonpath={.data.dagster}")
        self.stack.__dict__["password"] = base64.b64decode(encoded).decode()

    def forward(self):
        """Makes the edge reachable at the port of the stack, until the cluster is removed."""
        self.forward_no_more()
        namespace, port = f"--namespace={self.name}", self.stack.lease.port
        words = f"kubectl port-forward {namespace} service/edge {port}:8080"
        self.forwarding = subprocess.Popen(
            ["sh", "-c", f"while :; do {words}; sleep 0.5; done"],
            env=self.stack.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip

    def forward_no_more(self):
        """Ends what waits for the answer of an edge that may be lost."""
        if self.forwarding:
            os.killpg(self.forwarding.pid, signal.SIGTERM)
            self.forwarding.wait()
            self.forwarding = None

    @property
    def own(self):
        """Arguments of kubectl: the namespace of the stack."""
        return (f"--namespace={self.name}",)

    def up(self, *flags):
        """Puts the stack as it is now on the cluster; returns what was printed."""
        for cached in ("config", "settings", "with_all_profiles"):
            self.stack.__dict__.pop(cached, None)
        done = self.stack.verb("cluster-up", *flags)
        assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{self.diagnosis()}"
        return done.stdout

    def diagnosis(self):
        """Pods, events and the last lines of what matters, for the report of a failed test."""
        parts = [self.kubectl("get", "nodes,pods", "-A", "--output=wide", check=False)]
        namespace = f"--namespace={self.name}"
        events = ("get", "events", namespace, "--sort-by=.lastTimestamp")
        parts.append("\n".join(self.kubectl(*events, check=False).splitlines()[-40:]))
        for name in ("daemon", "webserver", "edge", "sign-in", "code-location"):
            parts.append(
                self.kubectl("logs", namespace, f"deployment/{name}", "--tail=30", check=False)
            )
        return "\n".join(parts)

    def remove(self):
        """Ends the forwarding. The containers are removed with the stack."""
        self.forward_no_more()
        for number in range(NODES):
            docker("rm", "--force", "--volumes", self.node(number))
        docker("rm", "--force", "--volumes", f"{self.name}-store", f"{self.name}-registry")
        docker("network", "rm", self.name)
        docker("volume", "rm", self.name)
        shutil.rmtree(Path(self.keys))


def seconds_of(action):
    """How long something takes, and what it returns."""
    begun = time.monotonic()
    value = action()
    return time.monotonic() - begun, value


if __name__ == "__main__":
    # Before any test begins: it takes longer than a test may.
    images()
