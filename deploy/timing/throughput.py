"""How many pictures a second an engine takes where the steps of several go on side by side."""

import itertools
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, Sequence

from PIL import Image

from effedge.deploy.timing.synthetic_inputs import made_up_picture
from effedge.deploy.timing.workload import load_model

TO_WARM_UP = 16  # pictures


def throughput(
    folder: str, task: str, pictures: Sequence[Path], count: int, latency_ms: float, batch: int
) -> Dict[str, Any]:
    """{"pictures", "side_by_side", "per_second", "gain"}: pictures a second in throughput mode, and over one after the
    other.

    Args:
        pictures: repeated until there are `count`; a made-up one, on the disk, if there are none.
        latency_ms: of a batch through all steps, one after the other.
    """
    model = load_model(folder, task, throughput=True)
    with tempfile.TemporaryDirectory() as scratch:
        if not pictures:
            made_up = Path(scratch) / "made-up.jpg"
            Image.fromarray(made_up_picture()).save(str(made_up), quality=90)
            pictures = [made_up]
        for _ in model(itertools.islice(itertools.cycle(pictures), TO_WARM_UP)):
            pass  # to warm up
        started = time.perf_counter()
        for _ in model(itertools.islice(itertools.cycle(pictures), count)):
            pass
        seconds = time.perf_counter() - started
    rate = count / seconds
    gain = rate * latency_ms / (1000 * batch)
    return {
        "pictures": count,
        "side_by_side": model.engine.parallel,
        "per_second": round(rate, 2),
        "gain": round(gain, 3),
    }
