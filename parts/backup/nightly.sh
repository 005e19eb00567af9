#!/usr/bin/env bash
# Makes a backup each day at BACKUP_AT (UTC), and keeps the newest BACKUP_KEEP of this stack.
# The gap: Compose has no timer.
set -uo pipefail

# The mark stays when the container is started again: `make status` looks for it.
readonly FOLDER=/backups FAILED=/scratch/failed
export SETTINGS=/scratch/settings

collect_settings() { # the operator's files, as cli/settings.py names them
    local name file
    rm -rf "$SETTINGS"
    mkdir -p "$SETTINGS"
    for name in .env docker-compose.override.yml dagster.yaml; do
        [ ! -f "/checkout/$name" ] || cp "/checkout/$name" "$SETTINGS/"
    done
    for file in /projects/*/.env; do
        [ ! -f "$file" ] || cp "$file" "$SETTINGS/$(basename "$(dirname "$file")").env"
    done
}

make_backup() {
    local name partial kind=backup
    [ ! -s /run/secrets/backup_passphrase ] && [ ! -s /run/secrets/backup_keys ] || kind=backup.age
    name="$STACK_NAME-$(date -u +%Y-%m-%dT%H-%M-%SZ).$kind"
    partial="$FOLDER/.$name.partial"
    rm -f "$FOLDER/.$STACK_NAME"-*.partial
    collect_settings
    umask 077
    if /opt/backup/run.sh write "{\"stack\": \"$STACK_NAME\"}" >"$partial" && chown --reference="$FOLDER" "$partial" && sync "$partial" && mv "$partial" "$FOLDER/$name"; then
        echo "backup: $name, $(stat -c %s "$FOLDER/$name") bytes"
        rm -f "$FAILED"
        # Their names sort by time.
        find "$FOLDER" -maxdepth 1 -name "$STACK_NAME-????-??-??T??-??-??Z.backup*" | sort -r |
            tail -n "+$((BACKUP_KEEP + 1))" | xargs -r rm -v
    else
        rm -f "$partial"
        echo "backup: failed, there is none of this night: the reason is above" >&2
        touch "$FAILED"
    fi
    rm -rf "$SETTINGS"
}

# One that failed, or that was due while this machine was off.
last_due=$(($(date +%s) - ($(date +%s) - $(date -u -d "$BACKUP_AT" +%s) + 86400) % 86400))
if [ -e "$FAILED" ]; then
    make_backup
elif [ -n "$(find "$FOLDER" -maxdepth 1 -name "$STACK_NAME-*.backup*")" ] &&
    [ -z "$(find "$FOLDER" -maxdepth 1 -name "$STACK_NAME-*.backup*" -newermt "@$last_due")" ]; then
    make_backup
fi
while true; do
    seconds=$((($(date -u -d "$BACKUP_AT" +%s) - $(date +%s) + 86400) % 86400))
    echo "backup: the next one is in $((seconds / 60)) minutes"
    sleep "$seconds" &
    wait $!
    make_backup
    sleep 1
done
