"""In the build of a code location's image: puts a project in, and refuses what cannot work.

The gap: Dockerfile instructions cannot leave out files of a second build context. They would put
the project's `.env` into a layer. This module could be deleted if COPY --exclude worked without a
Dockerfile frontend from a registry.

    python -m control_plane.code_server.put_in FROM TO FOLDER...
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from control_plane.code_server.project import SOURCES, NoDefinitions, definitions_module

# Never in an image: secrets, and what is only of use on the machine that it comes from.
LEFT_OUT = {
    ".dagster", ".git", ".hg", ".idea", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".svn",
    ".tox", ".venv", ".vscode", "__pycache__", "node_modules", "venv",
}  # fmt: skip
# Where the project is in the image.
PROJECT = Path("/opt/code")
# The volume with the folders that runs write to, and what the image has in these folders.
DATA, SEED = Path("/var/lib/dagster/data"), Path("/opt/seed")
# The sum of each file in SEED, by path.
SUMS = SEED.with_suffix(".json")
# A package of one of these names would be imported in place of the platform's.
OURS = {
    "control_plane",
    "dagster",
    "dagster_docker",
    "dagster_postgres",
    "dagster_shared",
    "psycopg2",
}


class Unusable(Exception):
    """The project cannot be put in. The message says why."""


def put_in(source: Path, project: Path, folders: Sequence[str]) -> None:
    """Copies a project, and puts a link in place of each folder that its runs write to.

    Args:
        source: The project's folder.
        project: Where it is in the image.
        folders: The folders that are links to the volume, relative to the project.

    Raises:
        Unusable: A folder is not inside the project, or a module has a name of ours.
        NoDefinitions: It is not clear which module has the definitions.
    """
    shutil.copytree(source, project, ignore=_left_out, symlinks=True, dirs_exist_ok=True)
    refuse_shadows(project)
    refuse_old_layout(project, definitions_module(project))
    SEED.mkdir(parents=True, exist_ok=True)
    paths = [Path(name) for name in folders]
    for path in paths:
        if any(path != other and path.is_relative_to(other) for other in paths):
            raise Unusable(f"CODE_DATA names {path}, which is inside another of its folders")
    for name in sorted({str(path) for path in paths}):
        folder = project / name
        inside = folder.resolve().is_relative_to(project.resolve()) and folder != project
        if not inside or folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise Unusable(
                f"code cannot write to {name}, which is a link, a file or outside of the project:"
                " name other folders in CODE_DATA (its default is data)"
            )
        (SEED / name).parent.mkdir(parents=True, exist_ok=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.is_dir():
            shutil.move(folder, SEED / name)
        else:
            (SEED / name).mkdir()
        folder.symlink_to(DATA / name)
    SUMS.write_text(json.dumps(sums(SEED)))
    for path in [*project.rglob("*"), *SEED.rglob("*")]:
        if not path.is_symlink():
            # Readable for the user of the container, whatever the umask was.
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)


def refuse_old_layout(project: Path, module: str) -> None:
    """Raises Unusable when files are in defs/, where they were once, and would not be loaded."""
    package = Path("src", *module.split(".")[:-1])
    old = [path.relative_to(project) for path in (project / "defs").rglob("*.py")]
    if old and (project / package / "defs").is_dir():
        moves = "".join(
            f"\n  mkdir -p {package / file.parent} && mv -n {file} {package / file.parent}/"
            for file in sorted(old)
        )
        raise Unusable(
            f"defs/ is not loaded, the folder is now {package}/defs. In your project: {moves}"
        )


def refuse_shadows(project: Path) -> None:
    """Raises Unusable when the project has a module that Python would take for another one."""
    for source in SOURCES:
        for path in (project / source).glob("*"):
            is_module = path.suffix == ".py" or (path / "__init__.py").is_file()
            if is_module and path.stem in OURS | sys.stdlib_module_names:
                raise Unusable(
                    f"{path.relative_to(project)} has the name of a module of Python or of Dagster,"
                    " which could not be imported any more: rename it"
                )


def sums(folder: Path) -> dict[str, str]:
    """The size and SHA-256 of each file below a folder, by relative path."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and not p.is_symlink())
    return {str(path.relative_to(folder)): sum_of(path) for path in files}


def sum_of(file: Path) -> str:
    """The size of a file in bytes, a dash, and its SHA-256 in hexadecimal."""
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return f"{file.stat().st_size}-{digest}"


def _left_out(_: str, names: Iterable[str]) -> list[str]:
    return [
        name
        for name in names
        if name in LEFT_OUT or name.endswith(".pyc") or _may_be_env(name.lower())
    ]


def _may_be_env(name: str) -> bool:
    """Whether a file may contain secrets by its name: .env, .env.local, .envrc, prod.env."""
    return name.startswith((".env", "#.env")) or name.endswith(".env")


def main() -> None:
    """Ends with status 1 and one line when the project is refused."""
    source, project, *folders = sys.argv[1:]
    try:
        put_in(Path(source), Path(project), folders)
    except (NoDefinitions, Unusable, shutil.Error) as error:
        sys.exit(f"code location: refused: {error}")


if __name__ == "__main__":
    main()
