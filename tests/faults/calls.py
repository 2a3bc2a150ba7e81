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


def install(figures: str) -> None:
    """Runs a bundle's installation, each command of it in this process; `figures` stand for what is measured."""
    from importlib import import_module
    from unittest import mock

    from effedge.commands import COMMANDS
    from effedge.deploy.common.cli import run
    from effedge.deploy.common.files import write_json
    from effedge.engines import install as installation
    from effedge.engines import selftest

    def call(name: str, *words: str) -> None:
        if name == "latency":
            row = dict.fromkeys(("p50", "p90", "p99"), 1.0)
            content = {"engine": {}, "steps": {"engine": row}, "machine": figures}
            write_json(words[words.index("--json") + 1], content)
        else:
            sys.argv = ["effedge", *words]
            import_module(COMMANDS[name].module).main()

    sys.argv = ["install.sh", "--iterations", "2"]
    with (
        mock.patch.object(installation, "call", call),
        mock.patch.object(selftest, "measured_apart", selftest.measure_outputs),
    ):
        run(installation.main)


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
