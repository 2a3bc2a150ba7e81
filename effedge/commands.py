"""The table of effedge's commands: the name of each, the module with its `main`, and a line of help.

Nothing is imported to read it, so that `effedge --help` and a mistyped name answer at once.
"""

from typing import Dict, NamedTuple, Tuple


class Command(NamedTuple):
    """A command: the module with its `main`, one line of help, and options that are always passed to it."""

    module: str
    help: str
    options: Tuple[str, ...] = ()


GROUPS: Dict[str, Dict[str, Command]] = {
    "From a model to an engine": {
        "engine": Command("effedge.pipeline.chain", "a model, or an ONNX file, all the way to an engine"),
        "export": Command("effedge.pipeline.export.torch_to_onnx", "a PyTorch checkpoint to ONNX"),
        "simplify": Command(
            "effedge.pipeline.export.simplify", "an exported ONNX to a simpler one that computes the same"
        ),
        "quantize": Command("effedge.calibration.quantize", "a float ONNX to INT8, calibrated on images or arrays"),
        "fp16": Command(
            "effedge.calibration.fp16.convert", "a float ONNX, or what an INT8 ONNX has beside INT8, to FP16"
        ),
        "fp8": Command(
            "effedge.calibration.fp8.quantize", "a float ONNX to FP8, for GPUs of compute capability 8.9 on"
        ),
        "by-latency": Command("effedge.calibration.by_latency", "an INT8 ONNX with INT8 only where it is faster here"),
        "finetune": Command(
            "effedge.pipeline.training.finetune.command", "quantization-aware fine-tuning of an INT8 ONNX"
        ),
        "tensorrt-cache": Command(
            "effedge.calibration.tensorrt_cache", "an INT8 ONNX's ranges as TensorRT's cache file"
        ),
        "preflight": Command(
            "effedge.engines.preflight", "which nodes of an ONNX a target cannot take, without building"
        ),
        "build": Command("effedge.engines.build", "a prepared ONNX to an engine"),
    },
    "To a device": {
        "bundle": Command(
            "effedge.pipeline.chain", "one archive that a device builds its engine from", ("--until", "bundle")
        ),
        "deploy": Command("effedge.pipeline.shipping.push", "a bundle to a board over ssh, installed and timed there"),
        "fleet": Command(
            "effedge.pipeline.shipping.fleet.command", "a bundle over many boards, in batches, with Ansible"
        ),
        "prove": Command(
            "effedge.pipeline.shipping.prove", "models at every precision on a board over ssh, with a report"
        ),
    },
    "With an engine": {
        "predict": Command("effedge.deploy.predict", "what an engine detects in images, video or a camera"),
        "evaluate": Command("effedge.pipeline.evaluation.evaluate", "an engine's COCO AP or top-1 on labelled images"),
        "latency": Command("effedge.deploy.latency", "an engine's latency in percentiles, step by step"),
        "serve": Command("effedge.deploy.serving.serve", "an engine as an HTTP service, in KServe's v2 protocol"),
        "demo": Command("effedge.deploy.serving.demo", "engines side by side in a browser: images, webcam, latencies"),
        "triton": Command("effedge.deploy.triton.command", "engines as a model repository for NVIDIA Triton"),
        "sign": Command("effedge.deploy.sign", "signs an engine or a bundle with a private key"),
        "verify": Command(
            "effedge.deploy.verify", "fails unless an engine or a bundle is signed by a trusted key, and unchanged"
        ),
        "latency-test": Command("effedge.deploy.latency_test", "fails if an engine is slower than its baseline"),
    },
    "Models and data": {
        "summary": Command("effedge.pipeline.models.summary", "a model's stages, shapes, parameters and FLOPs"),
        "train": Command("effedge.pipeline.training.train", "training and transfer learning"),
        "check-data": Command("effedge.pipeline.datasets.report", "a data set's classes, mistakes and anchors"),
        "crops": Command("effedge.pipeline.datasets.crops", "a detector's data cut into a classifier's"),
    },
    "Reports": {
        "report": Command(
            "effedge.pipeline.reports.report.command", "engines compared on labelled images, as one HTML file"
        ),
        "sensitivity": Command("effedge.calibration.sensitivity", "each layer's output error in INT8, worst first"),
        "layer-accuracy": Command(
            "effedge.pipeline.reports.layer_accuracy", "each layer's loss of AP or top-1 in INT8"
        ),
        "choose": Command("effedge.pipeline.reports.choose.command", "the most accurate model within a latency"),
        "benchmark": Command(
            "effedge.pipeline.reports.benchmark.command", "engines raced with PyTorch, ONNX Runtime, OpenVINO"
        ),
        "growth": Command("effedge.pipeline.reports.benchmark.growth", "time and memory by model and batch"),
        "accuracy": Command(
            "effedge.pipeline.reports.accuracy.command", "FP32, FP16 and INT8, beside other quantizers"
        ),
        "builds": Command("effedge.pipeline.reports.builds", "build time, plan size and precision in TensorRT"),
    },
}
COMMANDS: Dict[str, Command] = {name: command for group in GROUPS.values() for name, command in group.items()}
