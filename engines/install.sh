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

PYTHON=${PYTHON:-python3}
command -v "$PYTHON" >/dev/null 2>&1 || fail "there is no '$PYTHON' here: install Python 3.8 or later (PYTHON= names it)"
"$PYTHON" -I -c 'import sys; sys.exit(sys.version_info < (3, 8))' ||
    fail "'$PYTHON' is $("$PYTHON" -V 2>&1), expected Python 3.8 or later: name a newer one with PYTHON="

# Python's own caches could hold other code than the files, and are removed: no list has them.
[ ! -d effedge ] || ! command -v find >/dev/null 2>&1 || find effedge -name __pycache__ -type d -prune -exec rm -rf {} + ||
    fail "cannot remove Python's caches in effedge/"

# A key that is pinned on this board (effedge deploy --key) has to have signed the bundle. The program that checks that
# is pinned too. It is for bundles that somebody unpacked here: `effedge deploy` runs it before it starts this file.
trusted=${HOME:-}/effedge/.trusted
[ ! -e "$trusted" ] || "$PYTHON" -I "$trusted/check.py" "$trusted/key.pub" "$PWD" || exit 2

# The check comes before any Python code, because a damaged file could fail in any manner. Every file is listed, and
# every listed file is as it was packed.
[ -f SHA256SUMS ] || fail "SHA256SUMS is missing beside install.sh: unpack the bundle again"
for tool in sha256sum awk find; do
    command -v "$tool" >/dev/null 2>&1 || fail "there is no '$tool' here, which checks the bundle: install it (coreutils, mawk, findutils)"
done
checked=$(LC_ALL=C sha256sum --strict -c SHA256SUMS 2>/dev/null)
status=$?
damaged=$(printf '%s\n' "$checked" | sed -n 's/: FAILED.*//p' | head -n 1)
[ -z "$damaged" ] || fail "'$damaged' is missing or not the file that was packed: unpack the bundle again"
[ "$status" -eq 0 ] || fail "SHA256SUMS is damaged, or sha256sum failed (exit status $status): unpack the bundle again"
for name in bundle.json install.sh model/model.onnx selftest/image.png selftest/expected.json; do
    grep -q "^[0-9a-f]\{64\}  $name\$" SHA256SUMS || fail "SHA256SUMS is cut short ('$name' is not in it): unpack the bundle again"
done
proof=
[ ! -d proof ] || proof=proof
unlisted=$(find effedge model selftest $proof ! -type d | LC_ALL=C awk '
    FNR == NR { listed[substr($0, 67)]; next } !($0 in listed)' SHA256SUMS - | head -n 1)
[ -z "$unlisted" ] || fail "'$unlisted' is none of the bundle's files: remove it, or unpack the bundle into a new folder"

module=install
[ "$1" != prove ] || { shift; module=proof.prove; }
exec "$PYTHON" -I effedge/engines/installation/launch.py "effedge.engines.$module" "$@"
