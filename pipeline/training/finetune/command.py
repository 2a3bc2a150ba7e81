"""Quantization-aware fine-tuning, for models that post-training INT8 cannot hold: float ONNX + INT8 ONNX -> INT8 ONNX.

    effedge finetune FLOAT.onnx INT8.onnx --data PICTURES --out TUNED.onnx

INT8.onnx is what calibration made of FLOAT.onnx (`make calibrate` leaves both in one folder: simplified.onnx and
int8.onnx). Its INT8 weights and its biases learn, for a few passes over PICTURES, to give what the float model gives;
no labels are needed. Placement and steps stay as calibrated, so every target that takes the one takes the other. What
was learnt is kept if it brings the outputs nearer to the float model's on samples that it was not learnt from.
"""

from __future__ import annotations

from pathlib import Path

from effedge.deploy.common.cli import Parser
from effedge.pipeline.training.finetune.stage import fine_tune
from effedge.pipeline.training.finetune.tuning import Tuning


def main() -> None:
    parser = Parser(prog="effedge finetune", description=__doc__)
    parser.add_argument("float_model", type=Path, metavar="FLOAT.onnx")
    parser.add_argument("int8_model", type=Path, metavar="INT8.onnx")
    parser.add_argument("--data", type=Path, required=True, metavar="DATA", help="a folder, a COCO json, .npz or .npy")
    parser.add_argument("--images-dir", type=Path, metavar="DIR", help="where the images of a COCO json lie")
    parser.add_argument("--images", type=int, metavar="N", help="how many (default: all)")
    for name, kind, what in (
        ("steps", int, "of the optimizer"),
        ("batch", int, "samples a step"),
        ("rate", float, "highest learning rate, in steps of INT8 weights"),
        ("seed", int, "of the samples' order"),
    ):
        default = getattr(Tuning, name)
        parser.add_argument(f"--{name}", type=kind, default=default, help=f"{what} ({default})")
    parser.add_argument("--out", type=Path, required=True, metavar="OUT.onnx")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    given = parser.parse_args()
    fine_tune(
        given.float_model,
        given.int8_model,
        given.data,
        given.out,
        tuning=Tuning(given.steps, given.batch, given.rate, given.seed),
        images_dir=given.images_dir,
        images=given.images,
        quiet=given.quiet,
    )
    print(given.out)
