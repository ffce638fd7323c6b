#!/bin/sh
# Installs the peers from their registries: the Python packages into .venv, and the Node package into
# express/node_modules. Builds the Rust services. Installs wrk and redis-server with apt-get if they are missing.
# Needs cargo, python3 with venv, and node with npm.
set -eu
cd "$(dirname "$0")"
for program in wrk redis-server taskset; do
    command -v "$program" >/dev/null && continue
    case $program in taskset) package=util-linux ;; *) package=$program ;; esac
    apt-get update -qq && apt-get install -y -qq "$package"
done
[ -d .venv ] || python3 -m venv .venv
.venv/bin/pip install --quiet --disable-pip-version-check --requirement requirements.txt
(cd express && npm install --silent --no-audit --no-fund --no-package-lock)
for peer in actix-idempotency actix-idempotent axum-idempotent; do
    (cd "$peer" && cargo build --release --quiet)
done
