#!/usr/bin/env bash
# Copies the encrypted backups of this stack in BACKUP_FOLDER to BACKUP_STORE, and keeps the newest
# BACKUP_STORE_KEEP there. It looks once a minute, and asks the store only when there is something new.
# The gap: rclone has no timer, and the service `backup` writes to a folder of this machine.
set -uo pipefail

# The health check looks for the mark.
readonly FOLDER=/backups WORKS=/tmp/works NAME="$STACK_NAME-????-??-??T??-??-??Z.backup.age"

here() { # the newest backups, a name a line; names sort by time
    find "$FOLDER" -maxdepth 1 -name "$NAME" -printf '%f\n' | sort -r | head -n "$BACKUP_STORE_KEEP"
}

answers() {
    rclone lsf --retries 1 --low-level-retries 2 --contimeout 5s "$BACKUP_STORE" >/dev/null
    case $? in
    0 | 3) ;; # 3: the folder is made with the first file
    *) echo "backup_store: $BACKUP_STORE does not answer, the next attempt is in a minute: the reason is above" >&2 && return 1 ;;
    esac
}

copy() {
    rclone copy --files-from - "$FOLDER" "$BACKUP_STORE" <<<"$1" || return 1
    rclone lsf --files-only --include "$NAME" "$BACKUP_STORE" | sort -r | tail -n "+$((BACKUP_STORE_KEEP + 1))" |
        while read -r old; do rclone deletefile "$BACKUP_STORE/$old" && echo "backup_store: deleted $old"; done
}

if [ -z "$BACKUP_STORE" ] || [ ! -s "$RCLONE_CONFIG" ]; then
    echo "backup_store: refused: BACKUP_STORE and BACKUP_STORE_CONFIG are not set (docs/how-to/back-up.md)" >&2
    exit 1
fi
copied=
while true; do
    names=$(here)
    [ -e "$WORKS" ] || ! answers || touch "$WORKS"
    if [ "$names" != "$copied" ] && [ -e "$WORKS" ]; then
        if copy "$names"; then
            echo "backup_store: the newest $(wc -l <<<"$names") are in $BACKUP_STORE: ${names%%$'\n'*} and older"
            copied=$names
        else
            echo "backup_store: failed, the next attempt is in a minute: the reason is above" >&2
            rm -f "$WORKS"
        fi
    fi
    sleep 60 &
    wait $!
done
