#!/bin/sh
# Installs an effedge bundle on its device: checks the bundle's files and the device, builds the engine, tests and times
# it. It may be run again: a finished step is skipped. `sh install.sh --help` lists the options. `sh install.sh prove`
# proves an engine that was installed here (effedge/engines/proof/prove.py).
cd "$(dirname "$0")" || exit 2
# nvcc and trtexec of JetPack, which a shell without a login does not find.
PATH=$PATH:/usr/local/cuda/bin:/usr/src/tensorrt/bin
export PATH

fail() {
    echo "error: $1" >&2
    exit 2
}

# The check comes before any Python code, because a damaged file could fail in any manner.
[ -f SHA256SUMS ] || fail "SHA256SUMS is missing beside install.sh: unpack the bundle again"
damaged=$(LC_ALL=C sha256sum -c SHA256SUMS 2>/dev/null | sed -n 's/: FAILED.*//p' | head -n 1)
[ -z "$damaged" ] || fail "'$damaged' is missing or not the file that was packed: unpack the bundle again"

PYTHON=${PYTHON:-python3}
command -v "$PYTHON" >/dev/null 2>&1 || fail "there is no '$PYTHON' here: install Python 3.8 or later (PYTHON= names it)"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 8))' ||
    fail "'$PYTHON' is $("$PYTHON" -V 2>&1), expected Python 3.8 or later: name a newer one with PYTHON="
module=install
[ "$1" != prove ] || { shift; module=proof.prove; }
exec "$PYTHON" -m "effedge.engines.$module" "$@"
