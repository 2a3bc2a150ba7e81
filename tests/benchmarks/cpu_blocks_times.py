"""What an engine's first blocks take in C++ and by OpenVINO: python tests/benchmarks/cpu_blocks_times.py ENGINE

In turns, on a made-up picture; medians and the shortest, in ms: by OpenVINO with the engine's settings, and by the
front with one thread and with as many as there are cores, compiled for this CPU, without AMX and without FP16.
"""

import argparse
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import numpy as np
import openvino as ov

from effedge.deploy.native import compiled_library
from effedge.deploy.native.cpu_blocks import blocks
from effedge.deploy.runtime.manifest import read_manifest
from effedge.deploy.runtime.openvino_backend import named_outputs
from effedge.deploy.timing.machine import cores

ROUNDS, RUNS = 12, 10
VARIANTS: Dict[str, List[str]] = {
    "this CPU": [],
    "without AMX": ["-mno-amx-tile", "-mno-amx-bf16"],
    "without FP16": ["-DFLOAT_ONLY"],
}


def fronts(description: blocks.Description, scratch: Path) -> Iterator[Tuple[str, blocks.Front]]:
    """(name, front) of each variant that compiles here."""
    for number, (name, flags) in enumerate(VARIANTS.items()):
        path = scratch / f"{number}.so"
        source = blocks.SOURCE._replace(flags=(*blocks.SOURCE.flags, *flags))
        try:
            compiled_library.compile_to(source, path)
        except subprocess.SubprocessError:
            continue
        library = blocks.FrontLibrary(path)
        if not library.allowed():
            continue
        for threads in sorted({1, cores()}):
            title = f"C++ for {name}, {threads} thread{'s' if threads > 1 else ''}"
            yield (
                f"{title}, {library.product_precision} and {library.vector_precision}",
                blocks.Front(library, description, threads),
            )


def by_openvino(folder: Path, manifest: Dict[str, Any], description: blocks.Description) -> Callable[[np.ndarray], Any]:
    """The same blocks of the engine's own file."""
    core = ov.Core()
    model = core.read_model(str(folder / manifest["engine"]))
    ports = named_outputs(model, description.outputs)
    config = {"PERFORMANCE_HINT": "LATENCY", **manifest["backend"]["config"]}
    request = core.compile_model(ov.Model(ports, model.get_parameters()), "CPU", config).create_infer_request()
    return lambda pictures: request.infer([pictures], share_inputs=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", type=Path, help="an engine's folder, with a front")
    folder = parser.parse_args().engine
    manifest = read_manifest(folder)
    description = blocks.read_front(folder / manifest["backend"]["front"]["file"])
    pictures = blocks.sample_picture(description.picture)[None]
    with tempfile.TemporaryDirectory() as scratch:
        racers: Dict[str, Callable[[np.ndarray], Any]] = {"OpenVINO": by_openvino(folder, manifest, description)}
        racers.update(fronts(description, Path(scratch)))
        times: Dict[str, List[float]] = {name: [] for name in racers}
        for _ in range(ROUNDS):
            for name, run in racers.items():
                run(pictures)
                for _ in range(RUNS):
                    begun = time.perf_counter()
                    run(pictures)
                    times[name].append(1000 * (time.perf_counter() - begun))
    print(f"the first {len(description.layout)} blocks, ms")
    for name, row in times.items():
        print(f"{np.median(row):7.2f} {min(row):7.2f}  {name}")


if __name__ == "__main__":
    main()
