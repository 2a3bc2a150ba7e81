"""Reads, without a change, which bundles a board has and serves, and what an installation needs there.

The board's model is the device tree's, and on PCs, which have none, the CPU's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from effedge.deploy.timing.board import power_mode
from effedge.deploy.timing.board_notes import mode
from effedge.pipeline.shipping.ssh import Board

LEAST_PYTHON = (3, 8)
# Prints a fact a line: its name, and its value. A missing file is a missing line, or an empty value.
READ = """
command -v {python} >/dev/null || {{
    echo "no "{python}": install Python 3.8 or later there, or name another" >&2; exit 1; }}
echo python "$({python} -I -c 'import sys; print(*sys.version_info[:2])')"
echo model "$({{ tr -d '\\0' < /proc/device-tree/model || sed -n 's/^model name[^:]*: //p' /proc/cpuinfo |
    sed 1q | grep . || uname -m; }} 2>/dev/null)"
echo free "$(df -Pk . | awk 'NR == 2 {{ print $4 }}')"
sed -n 's/^/nvpmodel /p' /var/lib/nvpmodel/status 2>/dev/null
sed -n 's/^ *\\(< *P[MO]\\)/nvpmodel \\1/p' /etc/nvpmodel.conf 2>/dev/null
cd effedge 2>/dev/null || exit 0
echo serves "$(readlink {name})"
echo before "$(readlink .{name}-before)"
if [ -d {work} ]; then echo whole yes; else echo copied "$(wc -c 2>/dev/null < {work}.part || echo 0)"; fi
echo installed "$(sha256sum 2>/dev/null < {name}/installed.json | cut -d ' ' -f 1)"
for pid in .{name}-????????????????/*.pid; do
    if grep -q install.sh "/proc/$(cat "$pid" 2>/dev/null)/cmdline" 2>/dev/null; then echo busy "$pid"; fi
done
"""


@dataclass(frozen=True)
class State:
    """A board's state, as to one bundle.

    Args:
        serves, before: folders of ~/effedge to which the links NAME and .NAME-before lead; empty without.
        whole: the bundle is unpacked there.
        copied: bytes of the archive that are there, if it is not.
        installed: the SHA-256 of installed.json of the folder that serves; empty without.
        busy: folders in which an installation or a proof runs.
        free: bytes of the disk.
        power_mode: as "MAXN (0)"; None where there are none.
    """

    serves: str
    before: str
    whole: bool
    copied: int
    installed: str
    busy: tuple[str, ...]
    free: int
    python: tuple[int, ...]
    model: str
    power_mode: str | None


def read_state(board: Board, names: dict[str, str]) -> State:
    """Reads a board's state over ssh.

    Args:
        names: as `push.names_there` returns them.

    Raises UserError for a board without that Python, and ConnectionLost.
    """
    facts: dict[str, list[str]] = {}
    for line in board.run(READ.format(**names)).decode(errors="replace").splitlines():
        name, _, value = line.partition(" ")
        facts.setdefault(name, []).append(value.strip())
    return parse(facts)


def parse(facts: dict[str, list[str]]) -> State:
    """Makes the state of the facts by name.

    >>> parse({"python": ["3 8"], "nvpmodel": ["pmode:0002", "< POWER_MODEL ID=2 NAME=15W >"]}).power_mode
    '15W (2)'
    """

    def first(name: str, default: Any = "") -> Any:
        return facts.get(name, [default])[0]

    modes = facts.get("nvpmodel", [])
    return State(
        serves=first("serves"),
        before=first("before"),
        whole=first("whole") == "yes",
        copied=int(first("copied", 0)),
        installed=first("installed"),
        busy=tuple(value.split("/")[0] for value in facts.get("busy", [])),
        free=1024 * int(first("free", 0) or 0),
        python=tuple(map(int, first("python").split())),
        model=first("model"),
        power_mode=mode(power_mode("\n".join(modes[:1]), "\n".join(modes))),
    )
