#!/usr/bin/env python3
"""Prints the address of the Maven repository that this host is configured with; nothing if none.

It is the mirror that Maven's settings name for the repository `central`, else the one that Maven
itself has built in. Read from files, because asking Maven takes eight seconds.
"""

from __future__ import annotations

import os
import re
import shutil
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Iterator
from pathlib import Path


def maven_home() -> Path | None:
    """Where Maven is installed."""
    command = shutil.which("mvn")
    named = os.environ.get("MAVEN_HOME") or os.environ.get("M2_HOME")
    return Path(named) if named else Path(command).resolve().parents[1] if command else None


def entries(text: str, tag: str) -> Iterator[dict[str, str]]:
    """The children of each element of that name, whatever the namespace; commented ones are not."""
    for element in ElementTree.fromstring(text).iter():  # noqa: S314  # the host's own configuration
        if re.sub("{.*}", "", element.tag) == tag:
            yield {re.sub("{.*}", "", child.tag): (child.text or "").strip() for child in element}


def is_for_central(mirror_of: str) -> bool:
    """Whether a mirror stands for `central`, which is neither local nor plain HTTP."""
    names = {name.strip() for name in mirror_of.split(",")}
    return "!central" not in names and bool(names & {"*", "external:*", "central"})


def mirror(settings: Path) -> str:
    """The first mirror for `central` in a settings.xml."""
    try:
        text = settings.read_text()
        return next(
            (m["url"] for m in entries(text, "mirror") if is_for_central(m.get("mirrorOf", ""))), ""
        )
    except (OSError, KeyError, ElementTree.ParseError):
        return ""


def built_in(home: Path) -> str:
    """The address of `central` in the POM that all others inherit from."""
    for jar in sorted(home.glob("lib/maven-model-builder-*.jar")):
        with zipfile.ZipFile(jar) as archive:
            text = archive.read("org/apache/maven/model/pom-4.0.0.xml").decode()
        return next((r["url"] for r in entries(text, "repository") if r["id"] == "central"), "")
    return ""


def main() -> None:
    """The user's settings go before those of the installation."""
    home = maven_home()
    files = [Path.home() / ".m2/settings.xml", *([home / "conf/settings.xml"] if home else [])]
    mirrors = (mirror(file) for file in files)
    print(next(filter(None, mirrors), "") or (built_in(home) if home else ""))


if __name__ == "__main__":
    main()
