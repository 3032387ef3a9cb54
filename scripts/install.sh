#!/bin/sh
# Puts Cohortium on a Debian host: a user, the program in /opt/cohortium, and units for systemd. Run it again to upgrade.
#
#   scripts/install.sh [--dry-run] [--root DIR] [--python PROGRAM]
#
#   --dry-run          only print the commands
#   --root DIR         put everything below DIR and make no user: for tests and packages
#   --python PROGRAM   interpreter, 3.11 to 3.13 (default: python3)
#
# It starts no daemon and touches no configuration: docs/operations.md goes on from here.
set -eu
umask 022

usage() {
    sed -n 's/^#   \(.*\)/\1/p' "$0" >&2
    exit 2
}

dry_run=no
root=
python=python3
while [ $# -gt 0 ]; do
    case $1 in
        --dry-run) dry_run=yes ;;
        --root) [ $# -gt 1 ] || usage; root=${2%/}; shift ;;
        --python) [ $# -gt 1 ] || usage; python=$2; shift ;;
        *) usage ;;
    esac
    shift
done

run() {
    if [ "$dry_run" = yes ]; then
        echo "+ $*"
    else
        "$@"
    fi
}

source=$(cd "$(dirname "$0")/.." && pwd)
program=$root/opt/cohortium
units=$root/etc/systemd/system
settings=$root/etc/cohortium

if [ "$dry_run" = no ] && [ -z "$root" ] && [ "$(id -u)" -ne 0 ]; then
    echo "install.sh: only root can install for the whole host; use sudo, or look with --dry-run" >&2
    exit 77
fi
if ! "$python" -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
    echo "install.sh: $python is not Python 3.11 to 3.13 with venv; apt-get install python3-venv, or name another with --python" >&2
    exit 78
fi

# The daemons' user. It owns nothing but their state.
if [ -z "$root" ] && ! id -u cohortium >/dev/null 2>&1; then
    run useradd --system --user-group --home-dir /var/lib/cohortium --no-create-home --shell /usr/sbin/nologin cohortium
fi

# The program, from wheels that the lock names by their hashes.
run mkdir -p "$program"
run "$python" -m venv "$program"
run "$program/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --require-hashes --only-binary :all: \
    -r "$source/requirements/core.lock"
run "$program/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --no-index --no-deps \
    --no-build-isolation --force-reinstall "$source"
run mkdir -p "$program/share/doc/cohortium"
run install -m 644 "$source/docs/operations.md" "$program/share/doc/cohortium/operations.md"

# Configurations are root's; the daemons only read them.
run mkdir -p "$settings" "$units"
run chmod 750 "$settings"
if [ -z "$root" ]; then
    run chgrp cohortium "$settings"
fi

for unit in "$source"/scripts/systemd/*.service; do
    run install -m 644 "$unit" "$units/${unit##*/}"
done
if [ -z "$root" ] && [ -d /run/systemd/system ]; then
    run systemctl daemon-reload
fi

if [ "$dry_run" = no ]; then
    echo "installed; next: $source/docs/operations.md, section 'Configure'"
fi
