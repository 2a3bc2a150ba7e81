"""A board: a stand-in for ssh that runs everything here, in a folder that is the board's home, and can break."""

from __future__ import annotations

import os

import pytest

from tests.pipeline.shipping.small_bundle import NAME, pack

# The last word is the command; all words are in $BOARD/arguments. It breaks in the middle
# of the copy after $CUT bytes, says $REFUSAL in place of connecting, and ends at the line of a job's log
# that is $STOP, if it comes. With $FULL the board's disk is full. The shell there prints $GREETING at its start.
SSH = r"""#!/bin/sh
for command; do :; done
echo "$*" | head -n 1 >> "$BOARD/arguments"
if [ -n "$REFUSAL" ]; then echo "$REFUSAL" >&2; exit 255; fi
if [ -n "$GREETING" ]; then echo "$GREETING"; fi
cd "$BOARD" || exit 1
HOME=$BOARD
export HOME
case "$command" in
    *"cat >>"*) if [ -n "$FULL" ]; then exec cat > /dev/full; elif [ -n "$CUT" ]; then
        head -c "$CUT" | sh -c "$command"
        echo "client_loop: send disconnect: Broken pipe" >&2; exit 255
    fi;;
    *nohup*) if [ -n "$STOP" ]; then
        sh -c "exec $command" > "$BOARD/seen" & watching=$!
        until grep -q "$STOP" "$BOARD/seen"; do
            if ! grep -q "^State:.[^Z]" /proc/$watching/status 2> /dev/null; then  # it has ended
                cat "$BOARD/seen"; wait $watching; exit $?
            fi
            sleep 0.05
        done
        kill $watching; cat "$BOARD/seen"
        echo "Connection to board closed by remote host." >&2; exit 255
    fi;;
esac
exec sh -c "$command"
"""


@pytest.fixture
def board(tmp_path, monkeypatch):
    """The folder that is the board's home."""
    home, commands = tmp_path / "home", tmp_path / "bin"
    home.mkdir()
    commands.mkdir()
    (commands / "ssh").write_text(SSH)
    (commands / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setenv("BOARD", str(home))
    for name in ("REFUSAL", "CUT", "STOP", "FULL", "GREETING"):
        monkeypatch.delenv(name, raising=False)
    return home


@pytest.fixture
def archive(tmp_path):
    """A small bundle, in a folder of its own."""
    path = tmp_path / "build" / f"{NAME}.tar.gz"
    path.parent.mkdir()
    return pack(path)
