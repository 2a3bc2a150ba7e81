"""Makes an FP16 and an INT8 engine of a checkpoint of your own and prints the accuracy of both.

    python examples/own_checkpoint.py d0 mine.safetensors IMAGES val.json

IMAGES is a folder of about a hundred images like those that the engine will see; val.json is labelled data (COCO's
format here). An engine that is up to date is not built again.
"""

import sys
from pathlib import Path

from effedge import UserError
from effedge.deploy.common.messages import show_messages
from effedge.engines.targets import resolve_target
from effedge.pipeline.chain import run_chain
from effedge.pipeline.evaluation.evaluate import evaluate_engine
from effedge.pipeline.request import Checkpoint, Request


def main(model: str, weights: str, images: str, labelled: str) -> None:
    show_messages()  # of the stages, as the command effedge prints them
    checkpoint, target = Checkpoint(model, weights), resolve_target("auto")
    for precision in ("fp16", "int8"):
        engine = run_chain(Request(checkpoint, precision, target, Path("build"), calibration=Path(images)))
        print(f"{engine}: {evaluate_engine(engine, labelled)['figures']}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
