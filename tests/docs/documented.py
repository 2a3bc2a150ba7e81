"""Reads the shell commands out of the README, the documentation and the examples."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^( *)```sh\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
EXAMPLE = re.compile(r"^    ((?:make|effedge|python|curl|[A-Z]+=\S+ ).*)$", re.MULTILINE)


class Documented(NamedTuple):
    """A command and the file that shows it."""

    place: str
    command: str

    @property
    def words(self) -> list[str]:
        """The command's words, without variables in front, comments, and a & behind."""
        words = shlex.split(self.command, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            del words[0]
        return [word for word in words if word != "&"]


def documented_commands() -> list[Documented]:
    """Every command in a ```sh block of a page, and in the docstring of an example, once a place."""
    shown = []
    for page in PAGES:
        for _, block in BLOCK.findall(page.read_text(encoding="utf-8")):
            shown += [Documented(page.relative_to(ROOT).as_posix(), line) for line in lines_of(block)]
    for example in sorted((ROOT / "examples").glob("*.py")):
        docstring = example.read_text(encoding="utf-8").split('"""')[1]
        place = example.relative_to(ROOT).as_posix()
        shown += [Documented(place, line) for line in EXAMPLE.findall(docstring)]
    return list(dict.fromkeys(shown))


def lines_of(block: str) -> list[str]:
    """The commands of a block: lines, joined where they end with a backslash, split at && and without blank ones."""
    joined = re.sub(r"\\\n\s*", " ", block)
    parts = [part.strip() for line in joined.splitlines() for part in line.split(" && ")]
    return [part for part in parts if part and not part.startswith("#")]
