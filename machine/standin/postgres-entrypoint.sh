#!/usr/bin/env bash
# The part of the official postgres image's contract that this project uses: POSTGRES_USER,
# POSTGRES_DB, POSTGRES_PASSWORD_FILE, POSTGRES_INITDB_ARGS, /docker-entrypoint-initdb.d/*.sql
# and *.sh, PGDATA; runs as the user postgres; initialises an empty PGDATA, leaves any other alone.
set -euo pipefail

[ "${1:-}" = postgres ] || exec "$@"

if [ "$(id -u)" -eq 0 ]; then
    mkdir -p "$PGDATA"
    chown -R postgres:postgres "$PGDATA"
    exec setpriv --reuid=postgres --regid=postgres --init-groups "$BASH" "$0" "$@"
fi

if [ ! -s "$PGDATA/PG_VERSION" ]; then
    user=${POSTGRES_USER:-postgres}
    database=${POSTGRES_DB:-$user}
    : "${POSTGRES_PASSWORD_FILE:?must name a file with the password for a new database}"
    # shellcheck disable=SC2086  # a list of options
    initdb --username="$user" --pwfile="$POSTGRES_PASSWORD_FILE" --auth-local=trust ${POSTGRES_INITDB_ARGS:-}
    printf '\nhost all all all scram-sha-256\n' >>"$PGDATA/pg_hba.conf"
    # Socket only, until the database is complete; with the arguments of the server to come.
    pg_ctl --wait --options "$(printf '%q ' "${@:2}" -c listen_addresses='')" start
    [ "$database" = postgres ] || createdb --username "$user" --maintenance-db postgres "$database"
    for file in /docker-entrypoint-initdb.d/*; do
        case "$file" in
        *.sql) psql --set ON_ERROR_STOP=1 --username "$user" --dbname "$database" --file "$file" ;;
        *.sh) bash "$file" ;;
        esac
    done
    pg_ctl --wait --mode fast stop
fi

exec "$@"
