"""Fine-tunes an INT8 ONNX to its rounding, for models whose accuracy post-training INT8 cannot keep.

    effedge finetune FLOAT.onnx INT8.onnx --data IMAGES --out TUNED.onnx

INT8.onnx was calibrated from FLOAT.onnx (`make calibrate` leaves both in one folder: simplified.onnx and int8.onnx).
Its INT8 weights and its biases learn, in a few passes over IMAGES, to reproduce the float model's outputs; no labels
are needed. Q/DQ placement and scales stay as calibrated, so the targets that take INT8.onnx take TUNED.onnx too. The
learnt weights are kept if they bring the outputs nearer to the float model's on samples that were held out.
"""

from __future__ import annotations

from pathlib import Path

from effedge.deploy.common.cli import Parser
from effedge.deploy.common.paths import output_file
from effedge.pipeline.training.finetune.stage import fine_tune
from effedge.pipeline.training.finetune.tuning import Tuning


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("float_model", type=Path, metavar="FLOAT.onnx")
    parser.add_argument("int8_model", type=Path, metavar="INT8.onnx")
    parser.add_argument("--data", type=Path, required=True, metavar="DATA", help="a folder, a COCO json, .npz or .npy")
    parser.add_argument("--images-dir", type=Path, metavar="DIR", help="folder of the images of a COCO json")
    parser.add_argument("--images", type=int, metavar="N", help="number of samples to use (default: all)")
    for name, kind, text in (
        ("steps", int, "of the optimizer"),
        ("batch", int, "samples a step"),
        ("rate", float, "highest learning rate, in INT8 steps of the weight's output channel"),
        ("seed", int, "of the samples' order"),
    ):
        default = getattr(Tuning, name)
        parser.add_argument(f"--{name}", type=kind, default=default, help=f"{text} ({default})")
    parser.add_argument("--out", type=output_file, required=True, metavar="OUT.onnx")
    parser.add_quiet()
    arguments = parser.parse_args()
    fine_tune(
        arguments.float_model,
        arguments.int8_model,
        arguments.data,
        arguments.out,
        tuning=Tuning(arguments.steps, arguments.batch, arguments.rate, arguments.seed),
        images_dir=arguments.images_dir,
        images=arguments.images,
    )
    print(arguments.out)
