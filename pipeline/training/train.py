"""Trains a model: a detector with focal loss and Huber or GIoU loss, a classifier with cross-entropy.

    effedge train b0 --data digits --size 64 --steps 2000 --batch 64 --out b0.safetensors
    effedge train det-lite0 --data train.json --val val.json --init imagenet --epochs 40 --out my.safetensors
    torchrun --nproc-per-node 8 -m effedge train d0 --recipe efficientdet --data train.json --out d0.safetensors

DATA: `digits` (drawn, no download), a COCO json, a Pascal VOC folder, a folder with a folder for each class, or a .tsv
of file<TAB>class. Classes and labels are the data's. An exponential moving average of the weights is validated and
saved; `effedge.pipeline.training.log.outputs` lists the files beside OUT. The state of the training is saved every
minute; after Ctrl-C or a kill the same command resumes from it, and comes to the same weights.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
from pathlib import Path

from effedge.deploy.common.locks import locked
from effedge.deploy.common.messages import log, silence
from effedge.deploy.timing.machine import cores
from effedge.pipeline.datasets.checks import LEAVE_OUT, REFUSE
from effedge.pipeline.datasets.problems import line_by_line
from effedge.pipeline.datasets.report import report
from effedge.pipeline.models.tables import is_detector
from effedge.pipeline.training.data.sources import DIGITS, TrainingData, training_data
from effedge.pipeline.training.distributed.processes import ProcessGroup, join_process_group
from effedge.pipeline.training.log.outputs import check_out
from effedge.pipeline.training.log.state import resume_path
from effedge.pipeline.training.loop import Schedule, train
from effedge.pipeline.training.options import Options, apply_recipe, make_parser, make_sampling, read_options
from effedge.pipeline.training.progressive.stages import in_stages
from effedge.pipeline.training.validation import make_validation
from effedge.pipeline.weights.published import Preprocessing, preprocessing

KEPT_BYTES = 2**31 - 1  # the most that mallopt takes
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
GPU_WORKERS = 16  # at most, to feed one GPU; one worker is enough beside a training on the CPU


def describe(options: Options, data: TrainingData, group: ProcessGroup) -> str:
    """Describes the size of a run in a line."""
    samples, length = options.steps * options.batch, data.epoch_length
    epochs = "" if length is None else f", {samples / length:.1f} epochs of {length} images"
    devices = f", {group.world_size} processes" if group.world_size > 1 else ""
    devices += ", on the GPU" if group.device.type == "cuda" else ""
    return f"{len(data.labels)} classes, {options.steps} steps of {options.batch}{epochs}{devices}"


def trained_preprocessing(model: str, data: str) -> tuple[Preprocessing, dict[str, str]]:
    """Returns the preprocessing that the weights will need, and the part of it that is written with the weights."""
    default = preprocessing(model, "")
    if data == DIGITS and not is_detector(model):
        return default._replace(crop=1.0), {"crop": "1.0"}  # a drawn crop is the whole input
    return default, {}


def main() -> None:
    arguments = make_parser(__doc__ or "").parse_args()
    apply_recipe(arguments)
    check_out(arguments.out)
    with lock_of(arguments.out), join_process_group(arguments.device) as group, contextlib.ExitStack() as quietly:
        if arguments.quiet or group.rank > 0:
            quietly.enter_context(silence())
        run_process(group, arguments)


def keep_freed_memory() -> None:
    """Makes malloc keep the memory of freed tensors for the next step's.

    By default glibc returns it to the system, which clears every page before it gives it out again. Other C libraries
    stay as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def lock_of(out: Path) -> contextlib.AbstractContextManager[None]:
    """Locks the output of a training; only the first of torchrun's processes does, for all of them."""
    return locked(out) if os.environ.get("RANK", "0") == "0" else contextlib.nullcontext()


def run_process(group: ProcessGroup, arguments: argparse.Namespace) -> None:
    """Runs the training in one process of the group."""
    if group.device.type == "cpu":
        keep_freed_memory()
    look, metadata = trained_preprocessing(arguments.model, arguments.data)
    val, validation = arguments.val or (DIGITS if arguments.data == DIGITS else None), None
    unreadable = LEAVE_OUT if arguments.skip_unreadable else REFUSE
    with line_by_line(), group.rank_0_first():  # rank 0 draws the digits
        data = training_data(arguments.model, arguments.data, arguments.images, arguments.size,
                             make_sampling(arguments), unreadable)  # fmt: skip
        options = read_options(arguments, data.epoch_length, group.world_size)
        data = in_stages(data, options)
        if val is not None:
            validation = make_validation(options.model, val, arguments.val_images or arguments.images, data.labels,
                                         options.size, look, unreadable)._replace(spread=group.spread)  # fmt: skip
    if data.checked is not None:
        log.info("\n".join(report(data.checked, options.model, options.size)))
    log.info(f"training {options.model} at {options.size}: {describe(options, data, group)}")
    metadata |= {"model": options.model, "labels": json.dumps(data.labels), "size": str(options.size)}
    metadata |= {"options": json.dumps(options.as_json()), "val_data": val or ""}
    workers = arguments.workers
    if workers is None:
        workers = 1 if group.device.type == "cpu" else min(GPU_WORKERS, max(1, cores() // group.world_size))
    schedule = Schedule(validation, arguments.validate_every, arguments.patience)
    train(options, data, arguments.out, schedule, metadata=metadata, group=group, workers=workers)
    if group.rank == 0:
        resume_path(arguments.out).unlink(missing_ok=True)
        print(arguments.out)
