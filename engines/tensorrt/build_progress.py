"""Shows TensorRT's nested progress phases as one bar (IProgressMonitor, TensorRT 10 and TensorRT-RTX).

A phase has steps, and a step of a phase may be a phase of its own. The share of a phase that is done is therefore
(its finished steps + the shares of its running children) / its steps. The bar shows the share of the root phases.
"""

import threading
from dataclasses import dataclass
from typing import Any, Dict, Optional

from effedge.deploy.common.messages import track


@dataclass
class Phase:
    """A running phase; `parent` is the name of the phase that it is a step of."""

    parent: Optional[str]
    steps: int
    finished: int = 0


class NestedPhases:
    """The phases that are running now, and `done`, the share of the build that is done, 0 to 1, which never falls."""

    def __init__(self) -> None:
        self.running: Dict[str, Phase] = {}
        self.done = 0.0

    def start(self, name: str, parent: Optional[str], steps: int) -> None:
        """Begins a phase."""
        self.running[name] = Phase(parent, max(steps, 1))

    def step(self, name: str, step: int) -> float:
        """Finishes the `step` of phase `name`, counted from 0; returns `done`."""
        if name in self.running:
            self.running[name].finished = step + 1
        return self._update()

    def finish(self, name: str) -> float:
        """Ends a phase; returns `done`."""
        self.running.pop(name, None)
        return self._update()

    def _update(self) -> float:
        roots = [name for name, phase in self.running.items() if phase.parent not in self.running]
        if roots:
            # The smallest share: a second root beside the first must not push the bar to its end.
            self.done = max(self.done, min(self._share(root) for root in roots))
        return self.done

    def _share(self, name: str) -> float:
        phase = self.running[name]
        children = sum(self._share(child) for child, other in self.running.items() if other.parent == name)
        return min((phase.finished + min(children, 1.0)) / phase.steps, 1.0)


def progress_monitor(trt: Any, cancelled: threading.Event) -> Any:
    """Makes an IProgressMonitor of module `trt` that draws a bar and stops the build once `cancelled` is set.

    TensorRT may call the monitor from several threads, and an exception in it would end the process: it raises none.
    Call `.close()` when the build has ended.
    """

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.lock = threading.Lock()
            self.phases = NestedPhases()
            form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}{postfix}"
            self.bar = track(total=1.0, desc="building", bar_format=form)

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
            """Redraws the bar, so that the elapsed time runs on within a long step, such as compiling."""
            with self.lock:
                self.bar.refresh()

        def close(self) -> None:
            self.bar.close()

    return Monitor()
