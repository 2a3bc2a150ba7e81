"""Runs the latency test in pytest, as a plugin.

    pytest --latency-baseline=d0.json                       # the engine whose folder the baseline names
    pytest --latency-baseline=d0.json --latency-engine=DIR  # the same, built anew elsewhere

adds a test to the run. In a test of your own, the fixture does the same:

    def test_speed(check_latency):
        check_latency("build/d0-digits/int8-cpu", "baselines/d0.json", tolerance=5)

A machine too busy to tell skips the test, with the reason.
"""

from pathlib import Path
from typing import Any, Callable, List, Optional, Tuple, Union

import pytest

from effedge.deploy.common.cli import UserError
from effedge.deploy.latency_test import (
    CANNOT_TELL,
    SLOWER,
    TOLERANCE,
    check,
    circumstances,
    exit_status,
    read_baseline,
    sentence,
)
from effedge.deploy.timing.board import board
from effedge.deploy.timing.board_notes import notes

Check = Callable[..., None]


def pytest_addoption(parser: "pytest.Parser") -> None:
    """Adds the plugin's options."""
    group = parser.getgroup("latency", "latency of effedge's engines")
    add = group.addoption
    add("--latency-baseline", metavar="FILE", action="append", default=[], help="compare an engine with this baseline")
    add("--latency-engine", metavar="DIR", help="the engine's folder (default: the one that the baseline names)")
    add("--latency-tolerance", metavar="PERCENT", type=float, default=TOLERANCE, help="(default: %(default)s)")


def pytest_collection_modifyitems(
    session: "pytest.Session", config: "pytest.Config", items: "List[pytest.Item]"
) -> None:
    """Adds a test for every baseline on the command line."""
    for baseline in config.getoption("--latency-baseline"):
        items.append(LatencyItem.from_parent(session, name=f"latency[{baseline}]", baseline=Path(baseline)))


class LatencyItem(pytest.Item):
    """A test that compares an engine with its baseline."""

    def __init__(self, *, baseline: Path, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.baseline = baseline

    def runtest(self) -> None:
        check_engine(
            self.config.getoption("--latency-engine"), self.baseline, self.config.getoption("--latency-tolerance")
        )

    def repr_failure(self, excinfo: Any, style: Any = None) -> Any:
        """Writes an error that the user can mend as a line, not as a traceback."""
        if isinstance(excinfo.value, (UserError, SlowerError)):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> Tuple[Path, Optional[int], str]:
        return self.baseline, None, self.name


class SlowerError(AssertionError):
    """The engine is slower than its baseline."""


def check_engine(engine: Union[str, Path, None], baseline: Union[str, Path], tolerance: float = TOLERANCE) -> None:
    """Raises SlowerError if the engine is slower than its baseline, and skips if the machine is too busy to tell.

    Raises UserError as `effedge.deploy.latency_test.check`.
    """
    recorded = read_baseline(Path(baseline))
    before = board()
    folder = str(engine or recorded["engine"]["folder"])
    verdicts = check(folder, recorded, tolerance / 100)
    sentences = [sentence(step, verdict, tolerance) for step, verdict in verdicts.items()]
    lines = "\n".join(notes(recorded.get("board"), before, board()) + circumstances(folder, recorded) + sentences)
    status = exit_status(verdicts)
    if status == SLOWER:
        raise SlowerError(lines)
    if status == CANNOT_TELL:
        pytest.skip(lines)


@pytest.fixture
def check_latency() -> Check:
    """Returns check_latency(engine, baseline, tolerance=5): it fails if the engine is slower by more per cent."""
    return check_engine
