"""Hypothesis strategies for files that anybody may have written, and the promise that is held against them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from effedge.deploy.common.cli import UserError

LONGEST_MESSAGE = 1000  # characters
FAST, SLOW = 250, int(os.environ.get("EFFEDGE_FUZZ_CASES", 60_000))  # cases; the latter of the tests marked slow
NUMBERS = [0, -1, 1, 2**31, 4_000_000_000, 2**63, 2**70, -(2**70), 1e308, float("nan"), float("inf"), 0.5]
TEXTS = [
    "",
    ".",
    "..",
    "../x",
    "/etc/passwd",
    "a" * 300,
    "a\0b",
    "\ud800",
    "é",
    "a\nb",
    "%s{}",
    "\u202e",
    "x" * 5000,
]
TEXT = st.text(max_size=20) | st.sampled_from(TEXTS)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(NUMBERS) | TEXT


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=8
) | st.builds(nested, st.just(300))


def run_of(count: int) -> settings:
    """Returns the settings of a test of `count` cases."""
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
    return settings(
        max_examples=count, derandomize=count <= FAST, deadline=None, database=None, suppress_health_check=checks
    )


@st.composite
def changed(draw: Callable[..., Any], original: Any) -> Any:
    """A JSON value with one to three of its parts replaced, removed, or put in addition."""
    value = json.loads(json.dumps(original))
    for _ in range(draw(st.integers(1, 3))):
        place = value
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            inner = place[key]
            if isinstance(inner, (dict, list)) and inner and draw(st.integers(0, 3)):
                place = inner
                continue
            action = draw(st.integers(0, 5))
            if action == 0:
                del place[key]
            elif action == 1 and isinstance(place, dict):
                place[draw(TEXT)] = draw(VALUES)
            else:
                place[key] = draw(VALUES)
            break
    return value


@st.composite
def damaged(draw: Callable[..., Any], original: bytes) -> bytes:
    """A file's content with bytes changed, removed, doubled or inserted, or cut off."""
    content = bytearray(original)
    for _ in range(draw(st.integers(1, 4))):
        at, length = draw(st.integers(0, len(content))), draw(st.integers(0, 40))
        action = draw(st.integers(0, 4))
        if action == 0:
            content[at : at + length] = draw(st.binary(max_size=40))
        elif action == 1:
            content[at:at] = content[at : at + length]
        elif action == 2:
            del content[at : at + length]
        elif action == 3 and at < len(content):
            content[at] = draw(st.integers(0, 255))
        elif action == 4:
            del content[at:]
    return bytes(content)


def one_line_or(function: Callable[[], Any]) -> Any:
    """Returns what a function returns; None after a UserError, which must be one short line. No other error passes."""
    try:
        return function()
    except UserError as error:
        text = str(error)
        assert text and len(text) < LONGEST_MESSAGE and "\n" not in text.strip(), text
        text.encode("utf-8")  # it can be printed
        return None
