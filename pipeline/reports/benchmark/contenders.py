"""Defines the contenders of a benchmark, and the plain ONNX export that some of them run.

`python -m effedge.pipeline.reports.benchmark.contenders KIND ARGUMENT...` runs a contender in a process of its own: for
every line on stdin, a number of runs, it prints that many latencies in ms as a JSON list.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from effedge.deploy.common.cli import UserError
from effedge.deploy.timing.synthetic_inputs import synthetic_array
from effedge.engines.onnx_header import read_header
from effedge.engines.stage import run_stage

if TYPE_CHECKING:
    import torch

PACKAGES = ("torch", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx-cu13", "pycuda", "numpy")
PLAIN_OPSET = 18


class Contender(NamedTuple):
    """A contender's name in reports, its key in KINDS, and the arguments of the key's function."""

    name: str
    kind: str
    arguments: tuple[str, ...]


def rivals_on_gpu(model: str, weights: str) -> list[Contender]:
    """Lists PyTorch in float32 and FP16: launched kernel by kernel, as one CUDA graph, and compiled.

    Convolutions of float32 may be TF32, which is PyTorch's default.
    """
    return [
        Contender(f"PyTorch {name}{launch}".strip(), kind, (model, weights, "cuda", dtype))
        for name, dtype in (("", "float32"), ("FP16 ", "float16"))
        for launch, kind in (("", "eager"), ("CUDA graph", "graph"), ("compiled", "compiled"))
    ]


def rivals(model: str, weights: str, plain: Path) -> list[Contender]:
    """Lists PyTorch, and ONNX Runtime and OpenVINO on a plain export, which is written to `plain`; all on the CPU."""
    export_plain(model, weights, plain)
    return [
        Contender("PyTorch", "eager", (model, weights)),
        Contender("PyTorch compiled", "compiled", (model, weights)),
        Contender("ONNX Runtime", "onnxruntime", (str(plain),)),
        Contender("OpenVINO", "openvino", (str(plain),)),
    ]


def export_plain(model: str, weights: str, out: Path) -> None:
    """Exports the plain module: normalized float images in, the heads' outputs out; a stage."""
    from effedge.pipeline.weights.locate import locate_weights

    def make(temporary: Path) -> None:
        import torch

        from effedge.pipeline.export.torch_to_onnx import quiet_exporter

        module, image = module_and_input(model, weights)
        with quiet_exporter():
            torch.onnx.export(
                module, (image,), str(temporary), opset_version=PLAIN_OPSET, dynamo=True, external_data=False,
                verbose=False,
            )  # fmt: skip

    file = locate_weights(model, weights)
    run_stage(
        "plain export",
        out,
        inputs={} if file is None else {"weights": file},
        options={"model": model, "weights": weights, "opset": PLAIN_OPSET},
        tools=["torch", "onnxscript"],
        code=[__name__],
        make=make,
    )


def module_and_input(model: str, weights: str) -> tuple[torch.nn.Module, torch.Tensor]:
    """Loads the module in evaluation mode, and makes a float input [1,3,H,W]."""
    import torch

    from effedge.pipeline.weights.load import load_weights, module_of, size_of_input

    loaded = load_weights(model, weights)
    size = size_of_input(model, loaded)
    module = module_of(model, loaded)
    return module.eval(), torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))


def engine(folder: str) -> Callable[[], object]:
    from effedge.deploy.timing.workload import make_workload

    return make_workload(folder, [], decode=False).infer


def eager(model: str, weights: str, device: str = "cpu", dtype: str = "float32") -> Callable[[], object]:
    import torch

    module, image = on_device(model, weights, device, dtype)

    def run_once() -> object:
        with torch.inference_mode():
            return synchronized(module(image))

    return run_once


def compiled(model: str, weights: str, device: str = "cpu", dtype: str = "float32") -> Callable[[], object]:
    """Compiles the module; on a GPU with CUDA graphs ("reduce-overhead"), which PyTorch advises for batch 1."""
    import torch

    module, image = on_device(model, weights, device, dtype)
    fast = torch.compile(module, mode="default" if device == "cpu" else "reduce-overhead")

    def run_once() -> object:
        with torch.no_grad():  # inference mode makes it compile anew
            return synchronized(fast(image))

    return run_once


def graph(model: str, weights: str, device: str, dtype: str) -> Callable[[], object]:
    """Records the eager module's launches as a CUDA graph."""
    import torch

    module, image = on_device(model, weights, device, dtype)
    with torch.inference_mode():
        side = torch.cuda.Stream()  # where cuDNN chooses its algorithms, which may not be recorded
        with torch.cuda.stream(side):
            for _ in range(3):
                module(image)
        torch.cuda.current_stream().wait_stream(side)
        recorded = torch.cuda.CUDAGraph()
        with torch.cuda.graph(recorded):
            outputs = module(image)

    def run_once() -> object:
        recorded.replay()
        return synchronized(outputs)

    return run_once


def on_device(model: str, weights: str, device: str, dtype: str) -> tuple[torch.nn.Module, torch.Tensor]:
    """Moves `module_and_input` to a device and a type; on a GPU to channels-last memory, which its kernels prefer."""
    import torch

    module, image = module_and_input(model, weights)
    if device == "cpu":
        return module, image
    if not torch.cuda.is_available():
        raise UserError("PyTorch finds no GPU here: the benchmark of a GPU's target runs on the GPU")
    torch.backends.cudnn.benchmark = True
    moved = {"device": device, "dtype": getattr(torch, dtype), "memory_format": torch.channels_last}
    return module.to(**moved), image.to(**moved)


def synchronized(outputs: object) -> object:
    """Waits until the GPU has computed the outputs, and returns them."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return outputs


def onnxruntime(path: str) -> Callable[[], object]:
    import onnxruntime as ort

    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    feeds = synthetic_feeds(path)
    return lambda: session.run(None, feeds)


def openvino(path: str) -> Callable[[], object]:
    import openvino as ov

    # OpenVINO's defaults: where the CPU has bfloat16, OpenVINO uses it.
    request = ov.Core().compile_model(path, "CPU", {"PERFORMANCE_HINT": "LATENCY"}).create_infer_request()
    feeds = synthetic_feeds(path)
    return lambda: request.infer(feeds, share_inputs=True, share_outputs=True)


def synthetic_feeds(path: str) -> dict[str, np.ndarray]:
    """Makes a normally distributed float32 input for an ONNX with one input of fixed size."""
    [(name, (_, shape))] = read_header(Path(path)).inputs.items()
    sides = [int(side) for side in shape or ()]
    return {name: synthetic_array(sides, np.float32)}


KINDS: dict[str, Callable[..., Callable[[], object]]] = {
    function.__name__: function for function in (engine, eager, compiled, graph, onnxruntime, openvino)
}


def main() -> None:
    kind, *arguments = sys.argv[1:]
    try:
        run_once = KINDS[kind](*arguments)
    except UserError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return
    for line in sys.stdin:
        latencies = []
        for _ in range(int(line)):
            started = time.perf_counter()
            run_once()
            latencies.append(1000 * (time.perf_counter() - started))
        print(json.dumps(latencies), flush=True)


if __name__ == "__main__":
    main()
