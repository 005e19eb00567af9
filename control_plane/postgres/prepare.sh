#!/usr/bin/env bash
# One-shot before everything else, in the postgres image, as root: generates a password for each
# database role on first start, gives each role's clients a file with theirs alone, refuses a volume
# that this Postgres cannot read, and gives Dagster's volumes to the user that Dagster runs as.
#
# The gap: the postgres image and Dagster both want to be given a password. Here nobody has to
# invent one, and nobody can leave a default one in place.
set -euo pipefail

readonly SERVER_DIR=/run/postgres-credentials  # what postgres itself reads
readonly CLIENT_DIR=/run/dagster-credentials   # in it a volume for each role's clients
readonly ROLES="owner control code viewer"     # dagster_owner and so on: roles.sql
readonly SIGN_IN_DIR=/run/sign-in-credentials  # who may sign in to the web UI

volume_major=$(cat "$PGDATA/PG_VERSION" 2>/dev/null || true)
if [ -n "$volume_major" ] && [ "$volume_major" != "$PG_MAJOR" ]; then
    echo "prepare: refused, nothing was touched: the volume postgres-data was made by PostgreSQL $volume_major, this stack runs PostgreSQL $PG_MAJOR. Set POSTGRES_IMAGE to a PostgreSQL $volume_major image and rebuild, or move the data with pg_dumpall (docs/operations.md, Upgrading Postgres)." >&2
    exit 1
fi

new_password() { head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '\n='; }
write() { # file, owner; content from stdin; whole or not at all
    install --mode 0600 --owner "$2" --group "$2" /dev/stdin "$1.new"
    mv "$1.new" "$1"
}

set_passwords() { # SQL from stdin, in a database whose server is not running
    # Single-user mode by default goes on after an error, and logs the statement.
    setpriv --reuid=postgres --regid=postgres --clear-groups \
        postgres --single -c exit_on_error=on -c log_min_error_statement=panic -D "$PGDATA" "$POSTGRES_DB" >/dev/null
}

pgpass() { # role; a libpq passfile with its password
    sed -n "s/^ALTER ROLE \(dagster_$1\) PASSWORD '\(.*\)';$/*:*:*:\1:\2/p" "$SERVER_DIR/passwords.sql"
}

# This file is where the passwords are kept; all others are made from it at each start.
if [ ! -s "$SERVER_DIR/passwords.sql" ]; then
    passwords=$(for role in $ROLES; do
        printf "ALTER ROLE dagster_%s PASSWORD '%s';\n" "$role" "$(new_password)"
    done)
    if [ -n "$volume_major" ]; then
        echo "prepare: the volume with the database passwords is gone; setting new ones"
        if ! set_passwords <<<"$passwords"; then
            echo "prepare: refused: the roles in the volume postgres-data are not this stack's, or it cannot be read: the reason is above. Bring back the volume that belongs here, or start with an empty one (make destroy)." >&2
            exit 1
        fi
    fi
    write "$SERVER_DIR/passwords.sql" postgres <<<"$passwords"
fi

for role in $ROLES; do
    pgpass "$role" | write "$CLIENT_DIR/$role/pgpass" "$DAGSTER_UID"
done
# For the health check.
pgpass viewer | write "$SERVER_DIR/pgpass" postgres
for user in dagster viewer; do
    [ -s "$SIGN_IN_DIR/$user" ] || new_password | write "$SIGN_IN_DIR/$user" "$DAGSTER_UID"
done
chown "$DAGSTER_UID:$DAGSTER_UID" /var/lib/dagster/*
