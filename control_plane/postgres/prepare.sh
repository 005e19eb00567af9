#!/usr/bin/env bash
# The first service of each start: a one-shot in the postgres image, as root. It refuses a volume that
# this Postgres cannot read. On first start it generates a password for each database role and for each
# user of the web UI. It writes one password file for the clients of each role, and makes the user of
# Dagster's containers the owner of Dagster's volumes.
#
# The gap: the postgres image and Dagster both require a password. With this script the operator does
# not choose one, and no default password exists.
set -euo pipefail

readonly SERVER_DIR=/run/postgres-credentials  # read by postgres itself
readonly CLIENT_DIR=/run/dagster-credentials   # contains one volume for the clients of each role
readonly ROLES="owner control code viewer"     # dagster_owner and so on: roles.sql
readonly SIGN_IN_DIR=/run/sign-in-credentials  # the passwords of the web UI's users

# `./stack restore` sets this mark first and removes it last (cli/marks.py).
if [ -e "$SERVER_DIR/restoring" ] && [ "${1:-}" != restore ]; then
    echo "prepare: refused, nothing was touched: a restore goes on or was interrupted: ./stack restore FILE again, or ./stack destroy" >&2
    exit 1
fi

# `./stack backup --last` sets this one.
if [ -e "$SERVER_DIR/moved" ] && [ "${1:-}" != restore ]; then
    echo "prepare: refused, nothing was touched: this stack has moved to a cluster, and two daemons would launch each run twice. To have it here again: ./stack cluster-backup --last, then ./stack restore FILE --replace" >&2
    exit 1
fi

volume_major=$(cat "$PGDATA/PG_VERSION" 2>/dev/null || true)
if [ -n "$volume_major" ] && [ "$volume_major" != "$PG_MAJOR" ]; then
    echo "prepare: refused, nothing was touched: the volume postgres-data was made by PostgreSQL $volume_major, this stack runs PostgreSQL $PG_MAJOR. Set POSTGRES_IMAGE to a PostgreSQL $volume_major image and rebuild, or move the data (docs/how-to/upgrade.md)." >&2
    exit 1
fi

case "${STORE:-}" in
    "") ;;
    s3) [ -s /run/secrets/store_config ] || {
        echo "prepare: refused, nothing was touched: STORE=s3 needs STORE_CONFIG, the file with the bucket and its access key" >&2
        exit 1
    } ;;
    *)
        echo "prepare: refused, nothing was touched: STORE=$STORE cannot be used: use s3, or leave it out" >&2
        exit 1
        ;;
esac

new_password() { head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '\n='; }
write() { # arguments: file, owner; stdin: content. Replaces the file atomically.
    install --mode 0600 --owner "$2" --group "$2" /dev/stdin "$1.new"
    mv "$1.new" "$1"
}

set_passwords() { # stdin: SQL. Runs it while the server does not run.
    # By default, single-user mode continues after an error and logs the statement.
    setpriv --reuid=postgres --regid=postgres --clear-groups \
        postgres --single -c exit_on_error=on -c log_min_error_statement=panic -D "$PGDATA" "$POSTGRES_DB" >/dev/null
}

pgpass() { # argument: role. Prints a libpq passfile with its password.
    sed -n "s/^ALTER ROLE \(dagster_$1\) PASSWORD '\(.*\)';$/*:*:*:\1:\2/p" "$SERVER_DIR/passwords.sql"
}

new_passwords() { # prints SQL that sets a new password for each role
    for role in $ROLES; do
        printf "ALTER ROLE dagster_%s PASSWORD '%s';\n" "$role" "$(new_password)"
    done
}

# `./stack rotate`: new passwords for everything. The caller tells the server, which runs.
if [ "${1:-}" = rotate ]; then
    passwords=$(new_passwords)
    write "$SERVER_DIR/passwords.sql" postgres <<<"$passwords"
    rm -f "$SIGN_IN_DIR"/*
fi

# This file stores the passwords. Each start writes the other files from it.
if [ ! -s "$SERVER_DIR/passwords.sql" ]; then
    passwords=$(new_passwords)
    if [ -n "$volume_major" ]; then
        echo "prepare: the volume with the database passwords is empty; setting new passwords"
        if ! set_passwords <<<"$passwords"; then
            echo "prepare: refused: the volume postgres-data cannot be read, or its roles are not those of this stack. The reason is above. Restore the right volume, or start with an empty one (make destroy)." >&2
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
# The object store of STORE=s3, and the authorities that may sign for it (code_server/object_store.py).
for role in $ROLES; do
    if [ -n "${STORE:-}" ]; then
        write "$CLIENT_DIR/$role/store.ini" "$DAGSTER_UID" </run/secrets/store_config
        write "$CLIENT_DIR/$role/store_authorities.pem" "$DAGSTER_UID" </run/secrets/ca_bundle
    else
        rm -f "$CLIENT_DIR/$role"/store*
    fi
done
for user in dagster viewer; do
    [ -s "$SIGN_IN_DIR/$user" ] || new_password | write "$SIGN_IN_DIR/$user" "$DAGSTER_UID"
done
chown "$DAGSTER_UID:$DAGSTER_UID" /var/lib/dagster/*
