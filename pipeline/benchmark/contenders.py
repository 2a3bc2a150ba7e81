"""The ways to run a model that a benchmark compares, and the plain export that some of them take.

`python -m pipeline.benchmark.contenders KIND ARGUMENT...` is one of them in its own process: for every line on stdin, a
number of runs, it prints that many latencies in ms as a JSON list.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deploy.cli import UserError
from deploy.made_up import made_up_array
from engines.onnx_header import read_header
from engines.stage import run_stage

PACKAGES = ("torch", "onnxruntime", "openvino", "numpy")
PLAIN_OPSET = 18


class Contender(NamedTuple):
    """`kind` is a key of KINDS; `arguments` are its function's."""

    name: str
    kind: str
    arguments: tuple[str, ...]


def rivals(model: str, weights: str, plain: Path, quiet: bool) -> list[Contender]:
    """PyTorch, and ONNX Runtime and OpenVINO on a plain export, which is written to `plain`."""
    export_plain(model, weights, plain, quiet)
    return [
        Contender("PyTorch", "eager", (model, weights)),
        Contender("PyTorch compiled", "compiled", (model, weights)),
        Contender("ONNX Runtime", "onnxruntime", (str(plain),)),
        Contender("OpenVINO", "openvino", (str(plain),)),
    ]


def export_plain(model: str, weights: str, out: Path, quiet: bool) -> None:
    """torch.onnx.export of the module as it is: normalized float pictures in, the heads' outputs out; a stage."""
    from pipeline.locate import locate_weights

    def make(temporary: Path) -> None:
        import torch

        from pipeline.export import quiet_exporter

        module, picture = module_and_picture(model, weights)
        with quiet_exporter():
            torch.onnx.export(
                module, (picture,), str(temporary), opset_version=PLAIN_OPSET, dynamo=True, external_data=False,
                verbose=False,
            )  # fmt: skip

    file = locate_weights(model, weights, quiet=quiet)
    run_stage(
        "plain export",
        out,
        inputs={} if file is None else {"weights": file},
        options={"model": model, "weights": weights, "opset": PLAIN_OPSET},
        tools=["torch", "onnxscript"],
        code=["pipeline"],
        make=make,
    )


def module_and_picture(model: str, weights: str) -> tuple[Any, Any]:
    """The module in evaluation mode, and a float input [1,3,H,W]."""
    import torch

    from pipeline.weights import load_weights
    from pipeline.zoo import create_model, input_size

    loaded = load_weights(model, weights)
    size = loaded.size or input_size(model)
    module = create_model(model, loaded.classes, size)
    module.load_state_dict(loaded.state)
    return module.eval(), torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))


def engine(folder: str) -> Callable[[], Any]:
    from deploy.workload import make_workload

    return make_workload(folder, [], decode=False).infer


def eager(model: str, weights: str) -> Callable[[], Any]:
    import torch

    module, picture = module_and_picture(model, weights)

    def once() -> Any:
        with torch.inference_mode():
            return module(picture)

    return once


def compiled(model: str, weights: str) -> Callable[[], Any]:
    import torch

    module, picture = module_and_picture(model, weights)
    fast = torch.compile(module)

    def once() -> Any:
        with torch.no_grad():  # inference mode makes it compile anew
            return fast(picture)

    return once


def onnxruntime(path: str) -> Callable[[], Any]:
    import onnxruntime as ort

    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    feeds = made_up(path)
    return lambda: session.run(None, feeds)


def openvino(path: str) -> Callable[[], Any]:
    import openvino as ov

    # As it comes: where the CPU has bfloat16, OpenVINO uses it.
    request = ov.Core().compile_model(path, "CPU", {"PERFORMANCE_HINT": "LATENCY"}).create_infer_request()
    feeds = made_up(path)
    return lambda: request.infer(feeds, share_inputs=True, share_outputs=True)


def made_up(path: str) -> dict[str, np.ndarray]:
    """A normal float32 input for an ONNX of one, whose sizes are fixed."""
    [(name, (_, shape))] = read_header(Path(path)).inputs.items()
    sides = [int(side) for side in shape or ()]
    return {name: made_up_array(sides, np.float32)}


KINDS: dict[str, Callable[..., Callable[[], Any]]] = {
    function.__name__: function for function in (engine, eager, compiled, onnxruntime, openvino)
}


def main() -> None:
    kind, *arguments = sys.argv[1:]
    try:
        once = KINDS[kind](*arguments)
    except UserError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return
    for line in sys.stdin:
        latencies = []
        for _ in range(int(line)):
            started = time.perf_counter()
            once()
            latencies.append(1000 * (time.perf_counter() - started))
        print(json.dumps(latencies), flush=True)


if __name__ == "__main__":
    main()
