"""What several test modules share. Importing it makes the repository's own modules importable."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATHS = (
    ".",
    "machine",
    "code_location/src",
    "locations/warehouse",
    "locations/warehouse/src",
)
sys.path[:0] = [str(ROOT / path) for path in PATHS]
