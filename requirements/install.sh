#!/bin/sh
# Inside an image build: makes /opt/dagster, a virtual environment with exactly the packages of
# requirements files, hashes checked, bytecode compiled. uv comes from requirements/build.txt.
#   install.sh REQUIREMENTS...     environment: PACKAGE_INDEX; secret: ca_bundle (may be empty)
# REQUIREMENTS may be a folder with a project's pyproject.toml and locks: see resolve.py.
set -eu

if [ -s /run/secrets/ca_bundle ]; then
    export PIP_CERT=/run/secrets/ca_bundle SSL_CERT_FILE=/run/secrets/ca_bundle
fi
if [ -n "${PACKAGE_INDEX:-}" ]; then
    export PIP_INDEX_URL="$PACKAGE_INDEX" UV_DEFAULT_INDEX="$PACKAGE_INDEX"
fi

python3 -m venv /tmp/uv
/tmp/uv/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement /requirements/build.txt
if [ -d "$1" ]; then
    python3 /requirements/resolve.py /tmp/uv/bin/uv "$1" /tmp/requirements.txt
    set -- /tmp/requirements.txt
fi
for file; do
    set -- "$@" --requirement "$file"
    shift
done
python3 -m venv --without-pip /opt/dagster
/tmp/uv/bin/uv pip install --quiet --python /opt/dagster/bin/python --link-mode copy \
    --require-hashes --compile-bytecode "$@"
