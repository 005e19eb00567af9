"""Refuses values of settings that cannot work, by name, before Compose reads them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from cli.errors import StackError

PORT = r"[1-9]\d{0,3}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d{2}|655[0-2]\d|6553[0-5]"
NAME = r"[A-Za-z0-9.-]+"
DURATION = r"\d+[mhd]|forever"
# What each setting may be, and how to say so.
FORMS = {
    # Compose would change "My Stack!" to "mystack" without a message. Images have this name too.
    "STACK_NAME": (
        r"[a-z0-9]+((_|__|-+)[a-z0-9]+)*",
        "lower-case letters, digits, - and _, beginning and ending with a letter or digit",
    ),
    "HTTP_PORT": (PORT, "a number from 1 to 65535"),
    "DOMAIN": (NAME, "a host name without http:// or a path"),
    "UI_URL": (
        rf"https?://({NAME}|\[[0-9A-Fa-f:.]+\])(:({PORT}))?(/\S*)?",
        "an address such as https://dagster.example.com:8443",
    ),
    "BIND_ADDRESS": (
        r"[0-9.]+|\[[0-9A-Fa-f:.]+\]",
        "an IPv4 address, or an IPv6 address in brackets such as [::1]",
    ),
    "CODE": (
        r"(.*/)?[A-Za-z0-9_.-]*[A-Za-z0-9_-]/?",
        "the path of your project's folder; the folder's name is that of the code location, of"
        " letters, digits, _, - and .",
    ),
    "CODE_DATA": (
        r"[A-Za-z0-9_-][A-Za-z0-9_./-]*( +[A-Za-z0-9_-][A-Za-z0-9_./-]*)*",
        "folders relative to your project's, separated by spaces",
    ),
    "CODE_DAGSTER_PIN": ("ignore", "ignore, or leave it out"),
    "DOCKER_SOCKET": (r"/.+", "an absolute path"),
    "ALLOW_ASSET_REPORTS": (r"[01]", "0 or 1"),
    "KEEP_SUCCEEDED_CONTAINERS": (DURATION, "10m, 12h, 7d or forever"),
    "KEEP_FAILED_CONTAINERS": (DURATION, "10m, 12h, 7d or forever"),
    # A run must be there when the daemon launches it again, and for sensors that look at its end.
    "KEEP_RUNS": (r"[1-9]\d*[hd]|forever", "whole days or hours such as 90d or 12h, or forever"),
    "BACKUP_AT": (r"([01]?\d|2[0-3]):[0-5]\d", "a time such as 03:00"),
    "BACKUP_KEEP": (r"[1-9]\d*", "a number from 1"),
    "LOST_TICKS": ("launch-late|show", "launch-late or show"),
    "STORE": ("s3", "s3, or leave it out"),
    "CLUSTER_WEB_SERVERS": (r"[1-9]\d*", "a number from 1"),
    "CLUSTER_MAX_RUNS": (r"[1-9]\d*", "a number from 1"),
    "CLUSTER_DATABASE_SIZE": (r"[1-9]\d*[KMGT]i", "an amount such as 20Gi"),
    "CLUSTER_REGISTRY": (r"[a-z0-9][a-z0-9._:/-]*", "a name such as registry.example.com/dagster"),
    "RETRY_WITH": ("new-code|old-code", "new-code or old-code"),
}


def refuse_wrong(*sources: Mapping[str, str]) -> None:
    """Refuses wrong values.

    Args:
        sources: Settings by name. The first source that has one wins.

    Raises:
        StackError: Values have not the form that their settings need. It names all of them.
    """
    wrong: list[str] = []
    for name, (form, use) in FORMS.items():
        value = next((source[name] for source in sources if source.get(name)), "")
        # Compose replaces variables, and this does not.
        if value and "$" not in value and not re.fullmatch(form, value):
            wrong.append(f"{name}={value!r} cannot be used: use {use}")
    if wrong:
        raise StackError(" | ".join(wrong))
