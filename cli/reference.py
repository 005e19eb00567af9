"""Writes docs/reference/commands.md and settings.md, from the verbs and from .env.example.

python3 -m cli.reference        writes both (`make format` does)
python3 -m cli.reference help   prints the list for `make help`
"""

from __future__ import annotations

import re
import sys

from cli.__main__ import VERBS, build_parser, name_of, parsers, summary_of
from cli.dotenv import described
from cli.stack import ROOT

FOLDER = ROOT / "docs/reference"
COMMANDS = """# Commands

<!-- `make format` writes this page from cli/verbs/ and the Makefile. -->

Each verb is available as `./stack VERB` and, except `dagster`, as `make VERB`. The exit status is 0
if the verb succeeded. It is 1 if the verb failed: the last line is the reason. It is 2 if the verb
or a flag is wrong. `make VERB` ends with 2 in both cases. Only `./stack` accepts flags. With make,
use `FORCE=1` (destroy), `FOLLOW=1` and `RUN=<id>` (logs), `RUN=<id>` and `STEP=<key>` (run-step),
`WAIT=1` (down), `FOR=<user>` (credentials), `NAME=<name>`, `FROM=<folder>` and `REMOVE=1`
(location), `LOCATION=<name>` (deploy, rollback, secret), `NAME=<name>` and `REMOVE=1` (secret),
`KEEP=<number>` (backup), `BACKUP=<file>`, `KEY=<file>` and `PASSPHRASE=<file>` (backup-verify,
restore), and `DAGSTER=1`, `POSTGRES=<image>`, `KEY=<file>` and `PASSPHRASE=<file>` (upgrade).

{verbs}
## For contributors

| command | does |
| --- | --- |
{make}
"""
SETTINGS = """# Settings

<!-- `make format` writes this page from .env.example and the Compose files. -->

Set these in a file `.env` beside `docker-compose.yml`, or in the environment. The environment
overrides `.env`. All settings are optional. `make up` applies a change. It refuses a name in `.env`
that is probably a misspelled setting.

| setting | default | what it does |
| --- | --- | --- |
{settings}
"""

# The folders of docker-compose.yml's parts.
PARTS = ("control_plane", "locations", "parts")


def make_verbs() -> dict[str, str]:
    """The contributor's verbs of the Makefile, with what each does."""
    makefile = (ROOT / "Makefile").read_text()
    return dict(re.findall(r"^([a-z-]+):.*?## (.*)$", makefile, re.MULTILINE))


def commands() -> str:
    """The text of commands.md."""
    each = parsers(build_parser())
    verbs = [
        f"## {name}\n\n{summary_of(verb)}\n\n```\n{each[name].format_usage()}"
        + "".join(re.findall(r"^  .*\n?", help_of.partition("\n\n")[2], re.MULTILINE)).rstrip()
        + "\n```\n"
        for verb in VERBS
        for name in [name_of(verb)]
        for help_of in [each[name].format_help()]  # its first paragraph is the usage
    ]
    make = "\n".join(f"| `make {name}` | {does} |" for name, does in make_verbs().items())
    return COMMANDS.format(verbs="\n".join(verbs), make=make)


def defaults() -> dict[str, str]:
    """The defaults of the settings, from the Compose files."""
    found: dict[str, str] = {}
    parts = [file for one in PARTS for file in sorted(ROOT.glob(f"{one}/*/compose.yml"))]
    for file in (ROOT / "docker-compose.yml", *parts):
        for name, default in re.findall(r"\$\{(\w+):-([^${}]*)\}", file.read_text()):
            if default not in ("", "/dev/null"):
                found[name] = default
    return found


def settings() -> str:
    """The text of settings.md."""
    known = defaults()
    rows = [
        f"| {'<br>'.join(f'`{name}`' for name in names)}"
        f" | {'<br>'.join(f'`{known[name]}`' if known.get(name) else '' for name in names)}"
        f" | {text} |"
        for names, text in described(ROOT)
    ]
    return SETTINGS.format(settings="\n".join(rows))


def main() -> None:
    """Writes the pages, or prints the list."""
    if sys.argv[1:] == ["help"]:
        verbs = {name_of(verb): summary_of(verb) for verb in VERBS if name_of(verb) != "dagster"}
        for name, does in (verbs | make_verbs()).items():
            print(f"  make {name:12} {does}")
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "commands.md").write_text(commands())
    (FOLDER / "settings.md").write_text(settings())


if __name__ == "__main__":
    main()
