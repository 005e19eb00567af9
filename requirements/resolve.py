"""In an image build: which packages a project gets, as a requirements file with hashes.

A project's own lock is used as it is when it was made for this platform. Otherwise what the project
asks for is resolved, with Dagster in the platform's version, and with the versions of the project's
lock wherever they fit.

    resolve.py UV MANIFESTS REQUIREMENTS    writes REQUIREMENTS; ends with status 1 and the reason
"""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
# What the code server and the run containers need, whatever the project asks for.
NEEDED = ["dagster", "dagster-docker", "dagster-postgres", "psycopg2-binary", "sqlalchemy<2.1"]
# With STORE=s3 also this.
FOR_STORE = ["dagster-aws"] * (os.environ.get("STORE") == "s3")
# The version of Dagster that a requirement asks for.
VERSION = re.compile(r"^\s*(dagster[\w-]*(?:\[[^\]]*\])?)\s*[=<>!~][^;]*", re.IGNORECASE)
PIN = re.compile(r"^(dagster[a-z0-9-]*)==(\S+)", re.MULTILINE)


def resolve(uv: str, manifests: Path, result: Path) -> str:
    """Writes the requirements; returns the reason when there is no solution."""
    platform = dict(PIN.findall((HERE / "control-plane.txt").read_text()))
    plain, project = manifests / "requirements.txt", manifests / "pyproject.toml"
    listed = plain.read_text() if plain.is_file() else ""
    pins = dict(PIN.findall(listed))
    fits = all(platform.get(name, version) == version for name, version in pins.items())
    if "--hash=" in listed and {"dagster-postgres", *FOR_STORE} <= pins.keys() and fits:
        result.write_text(listed)
        return ""
    constraints, needed = result.with_suffix(".constraints"), result.with_suffix(".in")
    constraints.write_text("\n".join(f"{name}=={version}" for name, version in platform.items()))
    needed.write_text("\n".join([*NEEDED, *FOR_STORE]))
    sources = [needed]
    table, reason = _project(project)
    if reason:
        return reason
    if table:
        sources.append(project)
        # uv keeps the versions that the file has, as far as it can.
        result.write_text(_locked(uv, manifests) or listed)
    else:
        sources += [one for one in (plain, manifests / "setup.py") if one.is_file()][:1]
    if os.environ.get("CODE_DAGSTER_PIN") == "ignore":
        asked = table.get("dependencies", []) if table else listed.splitlines()
        if isinstance(asked, dict):
            return (
                "CODE_DAGSTER_PIN=ignore needs the dependencies in [project], not in [tool.poetry]"
            )
        needed.write_text(
            "\n".join([*NEEDED, *FOR_STORE, *(VERSION.sub(r"\1", line) for line in asked)])
        )
        sources = [needed]
    command = [
        uv, "pip", "compile", "--quiet", "--generate-hashes", "--no-emit-index-url",
        "--no-annotate", "--no-header", "--constraint", constraints, "--output-file", result,
        *sources,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=manifests, capture_output=True, text=True, check=False)
    if not done.returncode:
        return ""
    said = " ".join(re.sub(r"[^\x20-\x7e]", " ", done.stderr).split())
    pinned = re.search(r"\bdagster[\w-]*[=<>!~]", said)
    return said + (
        f" (This platform runs Dagster {platform['dagster']}. If your code works with it, set"
        " CODE_DAGSTER_PIN=ignore.)"
    ) * bool(pinned)


def _project(file: Path) -> tuple[dict[str, Any], str]:
    """The table [project] of pyproject.toml, empty if there is none; and why it cannot be read."""
    if not file.is_file():
        return {}, ""
    try:
        content = tomllib.loads(file.read_text("utf-8-sig"))
    except ValueError as error:
        return {}, f"pyproject.toml cannot be read: {error}"
    # Poetry has a table of its own, which its build backend understands.
    return content.get("project") or content.get("tool", {}).get("poetry") or {}, ""


def _locked(uv: str, manifests: Path) -> str:
    """The versions in uv.lock, or nothing."""
    if not (manifests / "uv.lock").is_file():
        return ""
    export = [uv, "export", "--quiet", "--frozen", "--no-emit-project", "--no-hashes", "--no-dev"]
    done = subprocess.run(export, cwd=manifests, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"uv.lock cannot be read, its versions are not used: {done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    reason = resolve(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
    if reason:
        sys.exit(f"code location: refused, its packages cannot be installed: {reason}")
