"""The flags of the verbs that read a backup, and the file that they name."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from cli.errors import StackError


def add_flags(parser: ArgumentParser) -> None:
    """The flags of the verbs that read a backup."""
    parser.add_argument("file", metavar="FILE", help="the backup")
    add_keys(parser)


def add_keys(parser: ArgumentParser) -> None:
    """The flags that open an encrypted backup."""
    parser.add_argument("--key", metavar="FILE", help="a file with age's private key")
    parser.add_argument("--passphrase", metavar="FILE", help="a file with the passphrase")


def file_of(flags: Namespace) -> Path:
    """The file that the flags name; raises StackError if there is none."""
    file = Path(flags.file)
    if not file.is_file():
        why = "it is no file" if flags.file and file.exists() else "there is no such file"
        raise StackError(f"{flags.file or 'FILE is empty'}: {why}")
    return file
