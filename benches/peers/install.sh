#!/bin/sh
# Installs the peers from their registries: the Python ones into .venv, the Node one into express/node_modules, the
# Rust ones by building them. Needs cargo, python3 with venv, node with npm; wrk and redis-server it installs by apt.
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
