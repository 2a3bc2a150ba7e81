"""The latency test as a pytest plugin, where such tests live.

    pytest --latency-baseline=d0.json                       # the engine whose folder the baseline names
    pytest --latency-baseline=d0.json --latency-engine=DIR  # the same, built anew elsewhere

adds a test of that name to the run. In a test of your own, the fixture does the same:

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


def pytest_addoption(parser: Any) -> None:
    group = parser.getgroup("latency", "latency of effedge's engines")
    add = group.addoption
    add("--latency-baseline", metavar="FILE", action="append", default=[], help="hold an engine against this baseline")
    add("--latency-engine", metavar="DIR", help="the engine's folder (default: the one that the baseline names)")
    add("--latency-tolerance", metavar="PERCENT", type=float, default=TOLERANCE, help="(default: %(default)s)")


def pytest_collection_modifyitems(session: Any, config: Any, items: List[Any]) -> None:
    for baseline in config.getoption("--latency-baseline"):
        items.append(LatencyItem.from_parent(session, name=f"latency[{baseline}]", baseline=Path(baseline)))


class LatencyItem(pytest.Item):
    """One baseline held against its engine."""

    def __init__(self, *, baseline: Path, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.baseline = baseline

    def runtest(self) -> None:
        hold(self.config.getoption("--latency-engine"), self.baseline, self.config.getoption("--latency-tolerance"))

    def repr_failure(self, excinfo: Any, style: Any = None) -> Any:
        """What the user can mend is a line, not a traceback."""
        if isinstance(excinfo.value, (UserError, SlowerError)):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> Tuple[Path, Optional[int], str]:
        return self.baseline, None, self.name


class SlowerError(AssertionError):
    """The engine is slower than its baseline."""


def hold(engine: Union[str, Path, None], baseline: Union[str, Path], tolerance: float = TOLERANCE) -> None:
    """Raise SlowerError if the engine is slower than its baseline, skip if the machine is too busy to tell.

    Raises UserError as `effedge.deploy.latency_test.check`.
    """
    recorded = read_baseline(Path(baseline))
    before = board()
    folder = str(engine or recorded["engine"]["folder"])
    found = check(folder, recorded, tolerance / 100)
    verdicts = [sentence(step, comparison, tolerance) for step, comparison in found.items()]
    lines = "\n".join(notes(recorded.get("board"), before, board()) + circumstances(folder, recorded) + verdicts)
    status = exit_status(found)
    if status == SLOWER:
        raise SlowerError(lines)
    if status == CANNOT_TELL:
        pytest.skip(lines)


@pytest.fixture
def check_latency() -> Check:
    """check_latency(engine, baseline, tolerance=5): fail if the engine is slower than its baseline by more per cent."""
    return hold
