"""Runs a TensorRT build on a thread of its own, with a progress bar; Ctrl-C stops it where the version allows it."""

import contextlib
import threading
from typing import Any, Iterator, List

from effedge.deploy.common.cli import handled_signals
from effedge.deploy.common.messages import log
from effedge.engines.targets import Target
from effedge.engines.tensorrt.build_progress import progress_monitor


def build_plan(trt: Any, builder: Any, network: Any, config: Any, target: Target) -> Any:
    """Builds and returns the plan's bytes, or None if the builder gave up (its log says why).

    The build runs on a thread of its own, so that the calling thread stays free to receive Ctrl-C: Python delivers a
    signal only between instructions of its own on the main thread. At each of its steps the builder asks the progress
    monitor whether to go on.
    """
    cancelled, finished = threading.Event(), threading.Event()
    monitor = None
    if target.progress:
        monitor = config.progress_monitor = progress_monitor(trt, cancelled)
    plans: List[Any] = []

    def work() -> None:
        try:
            plans.append(builder.build_serialized_network(network, config))
        finally:
            finished.set()

    worker = threading.Thread(target=work, name="builder")
    with signals_set(cancelled):
        worker.start()
        while not finished.wait(0.1):
            if monitor is not None:
                monitor.tick()
        worker.join()
    if monitor is not None:
        monitor.close()
    if cancelled.is_set():
        raise KeyboardInterrupt
    return plans[0] if plans else None


@contextlib.contextmanager
def signals_set(cancelled: threading.Event) -> Iterator[None]:
    """Has Ctrl-C, and the other signals that end a command, set the event within the block, and raise nothing: an
    exception would leave the builder's thread."""

    def cancel(_number: int) -> None:
        if not cancelled.is_set():
            cancelled.set()
            log.warning("cancelling: the builder stops after its current step")

    with handled_signals(cancel):
        yield
