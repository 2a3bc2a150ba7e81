"""Reads an Ansible inventory: its boards in order, with their variables. Ansible itself does the reading, so that files
in YAML and INI, folders with host_vars/ and group_vars/, and scripts all do."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from effedge.deploy.common.cli import UserError

YAML = (".yml", ".yaml", ".json")
EXPECTED = "expected an Ansible inventory, such as a YAML file with the boards under all: hosts:"


def read_inventory(path: Path, limit: str | None, environment: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Reads the variables by board.

    Args:
        limit: Ansible's pattern of the boards; None: all.
        environment: of Ansible's programs.

    Raises UserError if the inventory cannot be read, or has no board that the pattern takes.
    """
    if not path.exists():
        raise UserError(f"no inventory '{path}': {EXPECTED}")
    words = ["ansible-inventory", "--inventory", str(path.absolute()), "--list"]
    words += [] if limit is None else ["--limit", limit]
    done = subprocess.run(words, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise UserError(f"'{path}' cannot be read: {reason(path, done.stderr)}")
    content = json.loads(done.stdout)
    variables = content.get("_meta", {}).get("hostvars", {})
    boards = {name: variables.get(name, {}) for name in hosts(content, "all")}
    if not boards:
        which = "has no boards" if limit is None else f"has no board that --limit '{limit}' takes"
        raise UserError(f"'{path}' {which}: {EXPECTED}")
    return boards


def hosts(content: dict[str, Any], group: str) -> Iterator[str]:
    """Yields the names of a group's boards, and of the groups in it."""
    yield from content.get(group, {}).get("hosts", [])
    for child in content.get(group, {}).get("children", []):
        yield from hosts(content, child)


def reason(path: Path, messages: str) -> str:
    """Finds the reason in the messages of `ansible-inventory`, which tries several formats: that of the file's own.

    >>> reason(Path("a.yml"), "[WARNING]: Failed to parse inventory with 'yaml' plugin: no colon\\nOrigin: /a.yml:5:1")
    'no colon (line 5); expected an Ansible inventory, such as a YAML file with the boards under all: hosts:'
    """
    reasons = dict(re.findall(r"inventory with '(\w+)' plugin: (.*)", messages))
    place = re.search(rf"{re.escape(path.name)}:(\d+)", messages)
    last = next((line for line in reversed(messages.splitlines()) if line.strip()), "no reason is given")
    text = reasons.get("yaml" if path.suffix in YAML else "ini", last.removeprefix("[ERROR]: "))
    text = text.replace("YAML parsing failed: ", "").rstrip(".")
    return f"{text}{f' (line {place.group(1)})' if place else ''}; {EXPECTED}"
