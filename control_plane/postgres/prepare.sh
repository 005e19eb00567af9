#!/usr/bin/env bash
# One-shot before everything else, in the postgres image, as root: generates the database
# password on first start, refuses a volume that this Postgres cannot read, and gives Dagster's
# volumes to the user that Dagster runs as.
#
# The gap: the postgres image and Dagster both want to be given a password. Here nobody has to
# invent one, and nobody can leave a default one in place.
set -euo pipefail

readonly SERVER_DIR=/run/postgres-credentials  # what postgres itself reads
readonly CLIENT_DIR=/run/dagster-credentials   # what its clients read
readonly SIGN_IN_DIR=/run/sign-in-credentials  # who may sign in to the web UI

volume_major=$(cat "$PGDATA/PG_VERSION" 2>/dev/null || true)
if [ -n "$volume_major" ] && [ "$volume_major" != "$PG_MAJOR" ]; then
    echo "prepare: refused, nothing was touched: the volume postgres-data was made by PostgreSQL $volume_major, this stack runs PostgreSQL $PG_MAJOR. Set POSTGRES_IMAGE to a PostgreSQL $volume_major image and rebuild, or move the data with pg_dumpall (docs/operations.md, Upgrading Postgres)." >&2
    exit 1
fi

new_password() { head -c 32 /dev/urandom | base64 | tr -d '\n/+='; }
write() { # file, owner; content from stdin; whole or not at all
    install --mode 0600 --owner "$2" --group "$2" /dev/stdin "$1.new"
    mv "$1.new" "$1"
}

if [ ! -s "$SERVER_DIR/password" ]; then
    password=$(new_password)
    if [ -n "$volume_major" ]; then
        echo "prepare: the volume with the database password is gone; setting a new one"
        echo "ALTER ROLE \"$POSTGRES_USER\" PASSWORD '$password'" |
            setpriv --reuid=postgres --regid=postgres --clear-groups postgres --single -D "$PGDATA" "$POSTGRES_DB" >/dev/null
    fi
    printf '*:*:*:%s:%s\n' "$POSTGRES_USER" "$password" | write "$SERVER_DIR/pgpass" postgres
    # Last: its presence says that the rest is there.
    printf '%s' "$password" | write "$SERVER_DIR/password" postgres
fi

for user in dagster viewer; do
    [ -s "$SIGN_IN_DIR/$user" ] || new_password | write "$SIGN_IN_DIR/$user" "$DAGSTER_UID"
done
write "$CLIENT_DIR/pgpass" "$DAGSTER_UID" <"$SERVER_DIR/pgpass"
chown "$DAGSTER_UID:$DAGSTER_UID" /var/lib/dagster/*
