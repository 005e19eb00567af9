#!/usr/bin/env bash
# Writes a backup to stdout, or reads one from stdin: archive.py, with age around it if there is a key.
# The gap: pg_dump and tar do not encrypt.
#
#   run.sh write MANIFEST | check | compare | database | files | settings | passwords
#
# Files: a passphrase, or age's keys (public ones to write, private ones to read). An empty one counts as
# none. ENCRYPTED=1 says that the backup on stdin is encrypted.
set -euo pipefail

readonly HERE=/opt/backup PASSPHRASE=/run/secrets/backup_passphrase KEYS=/run/secrets/backup_keys

encrypt() {
    if [ -s "$PASSPHRASE" ]; then
        python3 "$HERE/with_passphrase.py" "$PASSPHRASE" age --encrypt --passphrase
    elif [ -s "$KEYS" ]; then
        age --encrypt --recipients-file "$KEYS"
    else
        cat
    fi
}

decrypt() {
    if [ "${ENCRYPTED:-}" != 1 ]; then
        cat
    elif [ -s "$PASSPHRASE" ]; then
        python3 "$HERE/with_passphrase.py" "$PASSPHRASE" age --decrypt
    else
        age --decrypt --identity "$KEYS"
    fi
}

if [ "$1" = write ]; then
    python3 "$HERE/archive.py" "$@" | encrypt
else
    decrypt | python3 "$HERE/archive.py" "$@"
fi
