"""The ways to run a model that a benchmark compares, and the plain export that some of them take.

`python -m effedge.pipeline.reports.benchmark.contenders KIND ARGUMENT...` is one of them in its own process: for every line on stdin, a
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

from effedge.deploy.common.cli import UserError
from effedge.deploy.timing.synthetic_inputs import made_up_array
from effedge.engines.onnx_header import read_header
from effedge.engines.stage import run_stage

PACKAGES = ("torch", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx-cu13", "pycuda", "numpy")
PLAIN_OPSET = 18


class Contender(NamedTuple):
    """`kind` is a key of KINDS; `arguments` are its function's."""

    name: str
    kind: str
    arguments: tuple[str, ...]


def rivals_on_gpu(model: str, weights: str) -> list[Contender]:
    """PyTorch in float32 (of which convolutions may be TF32, as it comes) and FP16, launched step by step, as one CUDA
    graph, and compiled."""
    return [
        Contender(f"PyTorch {name}{how}".strip(), kind, (model, weights, "cuda", dtype))
        for name, dtype in (("", "float32"), ("FP16 ", "float16"))
        for how, kind in (("", "eager"), ("CUDA graph", "graph"), ("compiled", "compiled"))
    ]


def rivals(model: str, weights: str, plain: Path, quiet: bool) -> list[Contender]:
    """PyTorch, and ONNX Runtime and OpenVINO on a plain export, which is written to `plain`; all on the CPU."""
    export_plain(model, weights, plain, quiet)
    return [
        Contender("PyTorch", "eager", (model, weights)),
        Contender("PyTorch compiled", "compiled", (model, weights)),
        Contender("ONNX Runtime", "onnxruntime", (str(plain),)),
        Contender("OpenVINO", "openvino", (str(plain),)),
    ]


def export_plain(model: str, weights: str, out: Path, quiet: bool) -> None:
    """torch.onnx.export of the module as it is: normalized float pictures in, the heads' outputs out; a stage."""
    from effedge.pipeline.weights.locate import locate_weights

    def make(temporary: Path) -> None:
        import torch

        from effedge.pipeline.export.torch_to_onnx import quiet_exporter

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
        code=[__name__],
        make=make,
    )


def module_and_picture(model: str, weights: str) -> tuple[Any, Any]:
    """The module in evaluation mode, and a float input [1,3,H,W]."""
    import torch

    from effedge.pipeline.models.zoo import create_model, input_size
    from effedge.pipeline.weights.load import load_weights

    loaded = load_weights(model, weights)
    size = loaded.size or input_size(model)
    module = create_model(model, loaded.classes, size)
    module.load_state_dict(loaded.state)
    return module.eval(), torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))


def engine(folder: str) -> Callable[[], Any]:
    from effedge.deploy.timing.workload import make_workload

    return make_workload(folder, [], decode=False).infer


def eager(model: str, weights: str, device: str = "cpu", dtype: str = "float32") -> Callable[[], Any]:
    import torch

    module, picture = on_device(model, weights, device, dtype)

    def once() -> Any:
        with torch.inference_mode():
            return finished(module(picture))

    return once


def compiled(model: str, weights: str, device: str = "cpu", dtype: str = "float32") -> Callable[[], Any]:
    """On a GPU with CUDA graphs ("reduce-overhead"), which is what PyTorch advises for one picture at a time."""
    import torch

    module, picture = on_device(model, weights, device, dtype)
    fast = torch.compile(module, mode="default" if device == "cpu" else "reduce-overhead")

    def once() -> Any:
        with torch.no_grad():  # inference mode makes it compile anew
            return finished(fast(picture))

    return once


def graph(model: str, weights: str, device: str, dtype: str) -> Callable[[], Any]:
    """The eager module's launches, recorded once as a CUDA graph."""
    import torch

    module, picture = on_device(model, weights, device, dtype)
    with torch.inference_mode():
        side = torch.cuda.Stream()  # cuDNN chooses its algorithms, which may not be recorded
        with torch.cuda.stream(side):
            for _ in range(3):
                module(picture)
        torch.cuda.current_stream().wait_stream(side)
        recorded = torch.cuda.CUDAGraph()
        with torch.cuda.graph(recorded):
            outputs = module(picture)

    def once() -> Any:
        recorded.replay()
        return finished(outputs)

    return once


def on_device(model: str, weights: str, device: str, dtype: str) -> tuple[Any, Any]:
    """As `module_and_picture`, on a device and in a type; on a GPU with channels last, which its kernels are for."""
    import torch

    module, picture = module_and_picture(model, weights)
    if device == "cpu":
        return module, picture
    if not torch.cuda.is_available():
        raise UserError("PyTorch finds no GPU here: the benchmark of a GPU's target runs on the GPU")
    torch.backends.cudnn.benchmark = True
    kind = getattr(torch, dtype)
    return tuple(one.to(device, kind, memory_format=torch.channels_last) for one in (module, picture))


def finished(outputs: Any) -> Any:
    """The same outputs, once the GPU has computed them."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return outputs


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
    function.__name__: function for function in (engine, eager, compiled, graph, onnxruntime, openvino)
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
