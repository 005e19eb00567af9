#!/usr/bin/env bash
# The health check of Postgres: it answers a query over TCP, and has space left. The socket already
# answers while initdb runs. A Postgres without space answers queries, and refuses what is stored.
set -euo pipefail

readonly LEAST_MIB=100
free=$(df --output=avail --block-size=1M "$PGDATA" | tail -n 1 | tr -d ' ')
if [ "$free" -lt "$LEAST_MIB" ]; then
    echo "the disk is full, $free MiB are left for the volume postgres-data: delete what you do not need (docs/how-to/keep-or-delete-history.md)"
    exit 1
fi
exec psql --host=127.0.0.1 --username=dagster_viewer --dbname=dagster --no-psqlrc --quiet --tuples-only --command="SELECT 1"
