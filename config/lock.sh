#!/bin/sh
# Write the lock files anew from pyproject.toml, on a machine with a network: `config/lock.sh`, or `config/lock.sh --upgrade`.
# Each pins every package with its hashes and names no registry: pip asks whichever one it is set up for.
set -eu
cd "$(dirname "$0")/.."
unset PIP_FIND_LINKS PIP_EXTRA_INDEX_URL
export PIP_CONFIG_FILE=/dev/null
lock() {
    output=$1
    shift
    "${PYTHON:-.venv/bin/python}" -m piptools compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-header \
        --no-annotate --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-emit-options \
        --output-file "config/$output" "$@" pyproject.toml
}
lock requirements.txt "$@"
lock requirements-dev.txt --constraint config/requirements.txt --extra embedded --extra dev "$@"
lock requirements-bench.txt --constraint config/requirements-dev.txt --extra embedded --extra dev --extra bench "$@"
lock requirements-fuzz.txt --constraint config/requirements-dev.txt --extra embedded --extra dev --extra fuzz "$@"
