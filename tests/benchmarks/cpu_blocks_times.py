"""Times an engine's CPU blocks in C++ and by OpenVINO: python tests/benchmarks/cpu_blocks_times.py ENGINE

Interleaved, on a synthetic image; prints the median and the lowest latency in ms: by OpenVINO with the engine's
settings, and by the CPU blocks with one thread and with as many as there are cores, compiled for this CPU, without AMX
and without FP16.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import numpy as np
import openvino as ov

from effedge.deploy.common.contracts import Manifest
from effedge.deploy.native.compiled_library import compile_library
from effedge.deploy.native.cpu_blocks.blocks import SOURCE, CpuBlocks, CpuBlocksLibrary
from effedge.deploy.native.cpu_blocks.description import BlocksDescription, read_description, sample_image
from effedge.deploy.runtime.manifest import read_manifest
from effedge.deploy.runtime.openvino_backend import named_outputs
from effedge.deploy.timing.machine import cores

ROUNDS, RUNS = 12, 10
VARIANTS: Dict[str, List[str]] = {
    "this CPU": [],
    "without AMX": ["-mno-amx-tile", "-mno-amx-bf16"],
    "without FP16": ["-DFLOAT_ONLY"],
}


def compiled_variants(description: BlocksDescription, scratch: Path) -> Iterator[Tuple[str, CpuBlocks]]:
    """Yields the name and the CPU blocks of each variant that compiles on this machine."""
    for number, (name, flags) in enumerate(VARIANTS.items()):
        path = scratch / f"{number}.so"
        try:
            compile_library(SOURCE._replace(flags=(*SOURCE.flags, *flags)), path)
        except subprocess.SubprocessError:
            continue
        library = CpuBlocksLibrary(path)
        if not library.request_permission():
            continue
        for threads in sorted({1, cores()}):
            title = f"C++ for {name}, {threads} thread{'s' if threads > 1 else ''}"
            precisions = f"{library.product_precision} and {library.vector_precision}"
            yield f"{title}, {precisions}", CpuBlocks(library, description, threads)


def by_openvino(folder: Path, manifest: Manifest, description: BlocksDescription) -> Callable[[np.ndarray], Any]:
    """Compiles the same blocks of the engine's own file."""
    core = ov.Core()
    model = core.read_model(str(folder / manifest["engine"]))
    ports = named_outputs(model, description.outputs)
    config = {"PERFORMANCE_HINT": "LATENCY", **manifest["backend"]["config"]}
    request = core.compile_model(ov.Model(ports, model.get_parameters()), "CPU", config).create_infer_request()
    return lambda images: request.infer([images], share_inputs=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", type=Path, help="the folder of an engine with CPU blocks")
    folder = parser.parse_args().engine
    manifest = read_manifest(folder)
    blocks = manifest["backend"].get("cpu_blocks")
    if blocks is None:
        sys.exit(f"'{folder}' has no blocks in C++, as they were not faster here: build it with --cpu-blocks 16")
    description = read_description(folder / blocks["file"])
    images = sample_image(description.image_shape)[None]
    with tempfile.TemporaryDirectory() as scratch:
        contenders: Dict[str, Callable[[np.ndarray], Any]] = {"OpenVINO": by_openvino(folder, manifest, description)}
        contenders.update(compiled_variants(description, Path(scratch)))
        times: Dict[str, List[float]] = {name: [] for name in contenders}
        for _ in range(ROUNDS):
            for name, run in contenders.items():
                run(images)
                for _ in range(RUNS):
                    started = time.perf_counter()
                    run(images)
                    times[name].append(1000 * (time.perf_counter() - started))
    print(f"the first {len(description.layout)} blocks, ms")
    for name, row in times.items():
        print(f"{np.median(row):7.2f} {min(row):7.2f}  {name}")


if __name__ == "__main__":
    main()
