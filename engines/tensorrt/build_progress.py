"""One readable bar out of TensorRT's nested progress phases (IProgressMonitor, TensorRT 10 and TensorRT-RTX).

A phase has steps, and a step of a phase may be a phase of its own. So a phase is done to
(its finished steps + what its running children have done) / its steps, and the bar shows that of the roots.
"""

import threading
from dataclasses import dataclass
from typing import Any, Dict, Optional

from effedge.deploy.common.progress import open_bar


@dataclass
class Phase:
    parent: Optional[str]
    steps: int
    finished: int = 0


class NestedPhases:
    """The phases that are running now, and the share of the whole that is done, 0 to 1, which never goes back."""

    def __init__(self) -> None:
        self.running: Dict[str, Phase] = {}
        self.done = 0.0

    def start(self, name: str, parent: Optional[str], steps: int) -> None:
        self.running[name] = Phase(parent, max(steps, 1))

    def step(self, name: str, step: int) -> float:
        """`step` of phase `name`, from 0, is finished."""
        if name in self.running:
            self.running[name].finished = step + 1
        return self._update()

    def finish(self, name: str) -> float:
        self.running.pop(name, None)
        return self._update()

    def _update(self) -> float:
        roots = [name for name, phase in self.running.items() if phase.parent not in self.running]
        if roots:
            # The smallest: a second root beside the first must not push the bar to its end.
            self.done = max(self.done, min(self._share(root) for root in roots))
        return self.done

    def _share(self, name: str) -> float:
        phase = self.running[name]
        children = sum(self._share(child) for child, other in self.running.items() if other.parent == name)
        return min((phase.finished + min(children, 1.0)) / phase.steps, 1.0)


def progress_monitor(trt: Any, cancelled: threading.Event, disable: bool) -> Any:
    """An IProgressMonitor of module `trt` that draws a bar and stops the build once `cancelled` is set.

    TensorRT may call it from several threads, and an exception in it would end the process: it raises none. Call
    `.close()` when the build has ended.
    """

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.lock = threading.Lock()
            self.phases = NestedPhases()
            form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}{postfix}"
            self.bar = open_bar(1.0, "building", disable, bar_format=form)

        def phase_start(self, phase_name: str, parent_phase: Optional[str], num_steps: int) -> None:
            with self.lock:
                self.phases.start(phase_name, parent_phase, num_steps)
                self.bar.set_postfix_str(phase_name, refresh=False)
                self.bar.refresh()

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self.lock:
                self.bar.update(self.phases.step(phase_name, step) - self.bar.n)
            return not cancelled.is_set()

        def phase_finish(self, phase_name: str) -> None:
            with self.lock:
                self.bar.update(self.phases.finish(phase_name) - self.bar.n)

        def tick(self) -> None:
            """Redraw, so that the elapsed time runs on within a long step (compiling is one)."""
            with self.lock:
                self.bar.refresh()

        def close(self) -> None:
            self.bar.close()

    return Monitor()
