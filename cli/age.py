"""Says in our words what age refuses when a backup is written or read."""

from __future__ import annotations

import re

ERROR = "age: error: "
# What age 1.2 says, and what happened and what to do. The first one that fits.
REASONS = (
    (
        r"incorrect passphrase",
        "it was made with another passphrase: --passphrase FILE names the file with it",
    ),
    (
        r"file is passphrase-encrypted",
        "it is encrypted with a passphrase and not for a key: use --passphrase FILE",
    ),
    (
        r"no identity matched",
        "it is encrypted for a key that was not given: --key FILE names the private key that"
        " belongs to the BACKUP_KEYS with which it was made",
    ),
    (
        r"unknown identity type|malformed secret key|no secret keys found",
        "the file that --key names has no private key of age, which begins with AGE-SECRET-KEY-",
    ),
    (
        r"recipient file",
        "a line of the file that BACKUP_KEYS names is not a public key of age, as age1... is",
    ),
    (
        r"payload|header|EOF|last chunk",
        "it is damaged or cut off: get another copy of it, or use an earlier backup",
    ),
)


def reason(said: str) -> str:
    """What happened and what to do, with age's words in brackets."""
    words = said.removeprefix(ERROR)
    ours = next((text for pattern, text in REASONS if re.search(pattern, words)), "age failed")
    return f"{ours} (age: {words})"
