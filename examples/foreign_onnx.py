"""Makes an INT8 engine of an ONNX file from any exporter and compares its outputs with the float model's.

    python examples/foreign_onnx.py net.onnx arrays.npz

arrays.npz has an array for each input of the model; its first axis are the samples.
"""

import sys
from pathlib import Path

import numpy as np

from effedge import Runner, UserError
from effedge.engines.targets import resolve_target
from effedge.pipeline.chain import run_chain
from effedge.pipeline.request import OnnxFile, Request


def main(onnx: str, arrays: str) -> None:
    def engine(precision: str) -> Path:
        target, source = resolve_target("auto"), OnnxFile(Path(onnx))
        return run_chain(Request(source, precision, target, Path("build"), calibration=Path(arrays)))

    with np.load(arrays) as data:
        feeds = {name: data[name][:1] for name in data.files}
    expected, outputs = Runner(engine("fp32"))(feeds), Runner(engine("int8"))(feeds)
    for name, array in expected.items():
        noise = np.square(array - outputs[name]).mean() / max(np.square(array).mean(), 1e-12)
        print(f"{name}: signal to quantization noise {-10 * np.log10(max(noise, 1e-12)):.1f} dB")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
