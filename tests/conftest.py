import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# The operator's commands are scripts, not a package.
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]
