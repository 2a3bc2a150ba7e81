"""The commands that are run with faults. Where a command measures for seconds, a stand-in measures at once."""

from __future__ import annotations

import sys
from pathlib import Path


def effedge(*words: str) -> None:
    """Runs `effedge WORDS`."""
    from effedge.__main__ import main

    sys.argv = ["effedge", *words]
    main()


def train(*words: str) -> None:
    """Runs `effedge train WORDS` with a checkpoint after each step."""
    from effedge.pipeline.training import loop

    loop.CHECKPOINT_SECONDS = -1.0
    effedge("train", *words)


def baseline(engine: str, path: str, number: str) -> None:
    """Records a latency baseline of an engine, in which `number` stands for what is measured."""
    from unittest import mock

    from effedge.deploy import latency_test
    from effedge.deploy.common.cli import run

    measured = {"steps": {}, "number": number}
    verdict = mock.Mock(slower=False)
    with (
        mock.patch("effedge.deploy.timing.interleaved.measure", lambda *_, **__: measured),
        mock.patch("effedge.deploy.timing.regression.compare", lambda *_: verdict),
    ):
        run(lambda: latency_test.record(engine, Path(path)) and None)
