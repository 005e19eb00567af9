"""Runs age, and types a passphrase for it: age reads one from a terminal only.

with_passphrase.py FILE COMMAND...
"""

import fcntl
import os
import sys
import termios
import threading
from pathlib import Path


def main() -> None:
    """Exits with the status of the command."""
    passphrase = Path(sys.argv[1]).read_bytes().partition(b"\n")[0].rstrip(b"\r")
    if not passphrase:  # age would make one of its own, and say it to nobody
        sys.exit("age: error: the first line of the file with the passphrase is empty")
    controller, terminal = os.openpty()
    child = os.fork()
    if not child:
        os.setsid()
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
        os.close(controller)
        os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 # of run.sh
    os.close(terminal)
    # It asks once or twice, and answers are read from the terminal's buffer.
    os.write(controller, 2 * (passphrase + b"\n"))
    threading.Thread(target=_drain, args=[controller], daemon=True).start()
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def _drain(controller: int) -> None:
    """What it asks would fill the terminal's buffer."""
    try:
        while os.read(controller, 1024):
            pass
    except OSError:  # it has ended
        pass


if __name__ == "__main__":
    main()
