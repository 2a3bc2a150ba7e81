"""Train a model: focal and Huber loss for detectors, cross-entropy for classifiers.

    effedge train b0 --data digits --size 64 --steps 2000 --batch 64 --out b0.safetensors
    effedge train det-lite0 --data train.json --val val.json --init imagenet --epochs 40 --out my.safetensors
    torchrun --nproc-per-node 8 -m effedge.pipeline.training.train d0 --recipe efficientdet --data train.json --out d0.safetensors

DATA: `digits` (drawn, no download), a COCO json, a Pascal VOC folder, a folder with a folder for each class, or a .tsv
of file<TAB>class. Classes and labels are the data's. What is validated and kept is an exponential moving average of the
weights; `effedge.pipeline.training.log.outputs` says which files stand beside OUT in the end. The state is kept every minute; after Ctrl-C
or a kill the same command goes on from it, to the same weights.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from effedge.deploy.common.cli import UserError
from effedge.deploy.timing.machine import cores
from effedge.pipeline.datasets.problems import line_by_line
from effedge.pipeline.datasets.report import report
from effedge.pipeline.models.dropout import part_of_batch
from effedge.pipeline.models.efficientnet import DROP_CONNECT
from effedge.pipeline.models.mbconv import MBConv1, MBConv6
from effedge.pipeline.models.zoo import create_model, is_detector, normalization
from effedge.pipeline.training.data.batches import DetectionBatch, Samples, dealt, or_error
from effedge.pipeline.training.data.sources import DIGITS, TrainingData, training_data
from effedge.pipeline.training.distributed.processes import ALONE, Processes, forking, processes
from effedge.pipeline.training.distributed.sync_batch_norm import synchronize
from effedge.pipeline.training.ema import Ema
from effedge.pipeline.training.initial_weights import initialize
from effedge.pipeline.training.interrupts import Interrupts, leave_to_parent
from effedge.pipeline.training.log.outputs import Outputs, check_out
from effedge.pipeline.training.log.progress import TrainingLog
from effedge.pipeline.training.log.state import TrainingState, load_resume, resume_path, save_resume
from effedge.pipeline.training.losses import detection_loss
from effedge.pipeline.training.optimizer import learning_rate, make_optimizer
from effedge.pipeline.training.options import Options, make_parser, read_options, take_recipe, variety_of
from effedge.pipeline.training.recipes import RECIPES
from effedge.pipeline.training.validation import Validation, make_validation
from effedge.pipeline.weights.published import Preprocessing, preprocessing

CHECKPOINT_SECONDS = 60.0
LABEL_SMOOTHING = 0.1  # Szegedy et al. 2016, section 7; EfficientNet's code release
GPU_WORKERS = 16  # at most, to feed one GPU; one is enough beside a training on the CPU


def make_loader(options: Options, data: TrainingData, start: int, place: Processes, workers: int) -> DataLoader:
    """This process's parts of the batches from step `start` on; a UserError in place of one that cannot be made."""
    share = options.batch // place.count
    draw = dealt(data.draw, options.batch, place.rank, place.count)
    return DataLoader(
        Samples(draw, start * share, options.steps * share),
        share // options.accumulate,
        collate_fn=or_error(data.collate),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        pin_memory=place.device.type == "cuda",  # else its copies to the GPU make the CPU wait
        multiprocessing_context="fork" if workers else None,
        worker_init_fn=leave_to_parent,
        generator=torch.Generator(),  # its own, so that going on draws nothing from the model's
    )


def make_normalize(model: str, device: torch.device = ALONE.device) -> Callable[[Tensor], Tensor]:
    """uint8 [N,H,W,3] -> normalized float [N,3,H,W] in channels-last memory, which trains twice as fast on CPUs."""
    mean, std = (torch.tensor(values, device=device).mul(255.0) for values in normalization(model))
    return lambda images: ((images - mean) / std).permute(0, 3, 1, 2)


def unhalved(x: Tensor) -> Tensor:
    """For the loss, whose sums are long: float32 where the forward pass was in bfloat16."""
    return x.float() if x.dtype == torch.bfloat16 else x


def weight(batch: Any) -> int:
    """What a batch's loss is divided by: its positive anchors, or its pictures."""
    return len(batch.anchor) if isinstance(batch, DetectionBatch) else len(batch.class_ids)


def batch_loss(
    model: nn.Module, images: Tensor, batch: Any, classes: int, whole: float | None = None
) -> dict[str, Tensor]:
    """The parts of the loss by name; their sum is what is minimized. `whole`: `weight` of the batch that this one is a
    part of."""
    if isinstance(batch, DetectionBatch):
        class_levels, box_levels = (list(map(unhalved, levels)) for levels in model(images))
        targets = (batch.picture, batch.anchor, batch.class_ids, batch.codes)
        class_loss, box_loss = detection_loss(class_levels, box_levels, *targets, classes, whole)
        return {"class": class_loss, "box": box_loss}
    total = F.cross_entropy(unhalved(model(images)), batch.class_ids, label_smoothing=LABEL_SMOOTHING, reduction="sum")
    return {"class": total / (whole or weight(batch))}


def train_step(
    state: TrainingState, forward: nn.Module, batches: Sequence[Any], normalize: Callable[[Tensor], Tensor],
    options: Options, classes: int, place: Processes,
) -> dict[str, float]:  # fmt: skip
    """One step, from the loss to the average.

    Args:
        forward: the model, as its forward pass is to be called.
        batches: the parts of this process's share of the batch.

    Returns:
        The parts of the whole batch's loss, and the learning rate as "rate".
    """
    rate = learning_rate(state.step, options.steps, options.rate, options.warmup, options.falling)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    batches = [type(batch)(*(tensor.to(place.device, non_blocking=True) for tensor in batch)) for batch in batches]
    [whole] = place.total([float(sum(map(weight, batches)))])
    first = place.rank * options.batch // place.count
    losses: dict[str, float] = {}
    state.optimizer.zero_grad()
    for index, batch in enumerate(batches):
        in_half = torch.autocast(place.device.type, torch.bfloat16, enabled=options.precision == "bf16")
        # The processes add up their gradients once, with the last part.
        wait = isinstance(forward, nn.parallel.DistributedDataParallel) and index < len(batches) - 1
        with forward.no_sync() if wait else contextlib.nullcontext():  # type: ignore[operator]
            with part_of_batch(options.seed, state.step, first, options.batch), in_half:
                parts = batch_loss(forward, normalize(batch.images), batch, classes, whole)
            loss = torch.stack(list(parts.values())).sum()
            (loss * place.count).backward()  # DistributedDataParallel takes the mean over the processes
        first += len(batch.images)
        for name, part in parts.items():
            losses[name] = losses.get(name, 0.0) + part.item()
    losses = dict(zip(losses, place.total(list(losses.values())), strict=True))
    if not math.isfinite(sum(losses.values())):
        found = sum(losses.values())
        raise place.error(f"the loss became {found} at step {state.step}: lower --rate (it is {options.rate})")
    nn.utils.clip_grad_norm_(state.model.parameters(), RECIPES[options.recipe].clip)
    state.optimizer.step()
    state.ema.update(state.model, state.step)
    state.step += 1
    return {**losses, "rate": rate}


def freeze_norm(model: nn.Module) -> None:
    """Let BatchNorm use its running statistics in training too, and leave them; its scales and biases still learn.

    With a few pictures in a batch, one unlike the others is divided by its own large variance, which hides from the
    loss what the running statistics will make of it: D0 so trained found hundreds of digits in a picture of fur.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def start_state(
    options: Options, classes: int, resume: Path, run_key: dict[str, Any], quiet: bool, place: Processes = ALONE
) -> TrainingState:
    """The state before the first step, or the one that `resume` keeps if it is there."""
    torch.manual_seed(options.seed)
    model: nn.Module = create_model(options.model, classes, options.size)
    for module in model.modules():
        if isinstance(module, MBConv1 | MBConv6):
            module.drop_rate *= options.drop_connect / DROP_CONNECT
    said = ""
    if options.init and not resume.exists():
        with place.rank_0_first():  # it downloads
            said = initialize(model, options.model, options.init, quiet)
    model.train()
    if options.freeze_norm:
        freeze_norm(model)
    if place.count > 1:
        model = synchronize(model, place.device)
    model.to(place.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(model, options.decay, RECIPES[options.recipe].optimizer)
    state = TrainingState(model, Ema(model, options.ema), optimizer)
    if resume.exists():
        load_resume(resume, run_key, state)
        said = f"going on from step {state.step} of {options.steps}"
    if said and not quiet:
        print(said, flush=True)
    return state


def train(
    options: Options, data: TrainingData, out: Path, validation: Validation | None, every: int | None, quiet: bool, *,
    patience: int | None = None, metadata: Mapping[str, str] | None = None, place: Processes = ALONE, workers: int = 1,
) -> tuple[dict[str, Tensor], float | None]:  # fmt: skip
    """Run the training, going on from the checkpoint beside `out` if there is one, and write what it comes to.

    Args:
        every: validate every so many steps; at the end it is done in any case.
        patience: stop after so many validations without gain.
        metadata: to be written with the weights.

    Returns:
        The averaged weights after the last step, and the validation's figure for them.

    Raises:
        UserError: a loss that is not finite, a resume file that is damaged or of another run, a picture that cannot be
            read, or Ctrl-C (once the state is safe).
    """
    resume, outputs = resume_path(out), Outputs(out, metadata or {})
    run_key = dataclasses.asdict(options) | {"annotations": data.digest}
    state = start_state(options, len(data.labels), resume, run_key, quiet, place)
    scores, classes = state.scores, len(data.labels)
    forward, normalize = place.wrap(state.model), make_normalize(options.model, place.device)
    log = TrainingLog(state.step, options.steps, options.batch, quiet)
    journal = outputs.journal(state.step, scores.validated) if place.rank == 0 else None
    kept = time.monotonic()

    def keep() -> None:
        nonlocal kept
        if journal is not None:
            journal.flush()
            save_resume(resume, run_key, state)
        kept = time.monotonic()

    def validate(validation: Validation) -> None:
        figures = validation(state.model, state.ema.state)
        best, figure = scores.take(state.step, figures, validation.figure), figures[validation.figure]
        if journal is not None:
            log.say(f"step {state.step}: validation {validation.figure} {'-' if figure is None else f'{figure:.4f}'}")
            journal.validation(state.step, figures)
            if best:
                outputs.save(state.ema.state, state.step, figures, best=True)
            outputs.draw(f"{options.model}: {out.name}")
        keep()

    def is_due() -> bool:
        on_the_way = bool(every and state.step % every == 0)
        return 0 < state.step != scores.validated and (on_the_way or state.step == options.steps)

    with Interrupts() as interrupts, contextlib.ExitStack() as whole_loop:
        try:
            with interrupts.deferred(), forking():  # in the worker, a copy of this process, it stays so
                batches = iter(make_loader(options, data, state.step, place, workers))
            if place.count > 1:  # then all leave after one and the same step
                whole_loop.enter_context(interrupts.deferred())
            while True:
                if validation is not None and is_due():
                    validate(validation)
                if state.step == options.steps or (patience and scores.without_gain >= patience):
                    break
                if place.count > 1 and place.total([float(interrupts.pending)]) != [0.0]:
                    raise KeyboardInterrupt
                parts = [next(batches) for _ in range(options.accumulate)]
                for part in parts:
                    if isinstance(part, UserError):
                        raise part
                with interrupts.deferred():
                    losses = train_step(state, forward, parts, normalize, options, classes, place)
                rate = losses.pop("rate")
                speed = log.step(state.step, losses)
                if journal is not None:
                    journal.step(state.step, {**losses, "loss": sum(losses.values())}, rate, speed)
                if time.monotonic() - kept > CHECKPOINT_SECONDS or state.step == options.steps:
                    keep()
        except KeyboardInterrupt:
            with interrupts.deferred():
                keep()
            done = f"interrupted after step {state.step} of {options.steps}"
            line = f"{done}: the state is kept in '{resume}', and the same command goes on from it"
            raise place.error(line) from None
        finally:
            log.bar.close()
            if journal is not None:
                journal.close()
    if place.rank == 0:
        if state.step < options.steps:
            log.say(f"stopped after {patience} validations without gain: the best was step {scores.best_step}")
        figures = scores.last if scores.validated == state.step else {}
        found = scores.best is not None and out.exists()
        if not found or scores.best_step != state.step:
            outputs.save(state.ema.state, state.step, figures, best=not found)
        outputs.draw(f"{options.model}: {out.name}")
    return dict(state.ema.state), scores.last.get(validation.figure) if validation is not None else None


def describe(options: Options, data: TrainingData, place: Processes) -> str:
    samples = options.steps * options.batch
    epochs = "" if data.pictures is None else f", {samples / data.pictures:.1f} epochs of {data.pictures} pictures"
    where = f", {place.count} processes" if place.count > 1 else ""
    where += ", on the GPU" if place.device.type == "cuda" else ""
    return f"{len(data.labels)} classes, {options.steps} steps of {options.batch}{epochs}{where}"


def look_of(model: str, data: str) -> tuple[Preprocessing, dict[str, str]]:
    """How the weights will want their pictures, and what of that must be written with them."""
    look = preprocessing(model, "")
    if data == DIGITS and not is_detector(model):
        return look._replace(crop=1.0), {"crop": "1.0"}  # a drawn crop is the whole input
    return look, {}


def main() -> None:
    given = make_parser(__doc__ or "").parse_args()
    take_recipe(given)
    check_out(given.out)
    with processes(given.device) as place:
        train_in(place, given)


def train_in(place: Processes, given: Any) -> None:
    """One process's `main`."""
    quiet = given.quiet or place.rank > 0
    look, metadata = look_of(given.model, given.data)
    val, validation = given.val or (DIGITS if given.data == DIGITS else None), None
    with line_by_line(), place.rank_0_first():  # digits are drawn once
        data = training_data(given.model, given.data, given.images, given.size, given.seed, variety_of(given),
                             quiet)  # fmt: skip
        options = read_options(given, data.pictures, place.count)
        if val is not None:
            validation = make_validation(options.model, val, given.val_images or given.images, data.labels,
                                         options.size, look, quiet, place.spread)  # fmt: skip
    if not quiet:
        if data.checked is not None:
            print("\n".join(report(data.checked, options.model, options.size)))
        print(f"training {options.model} at {options.size}: {describe(options, data, place)}", flush=True)
    metadata |= {"model": options.model, "labels": json.dumps(data.labels), "size": str(options.size)}
    metadata |= {"options": json.dumps(dataclasses.asdict(options)), "val_data": val or ""}
    workers = given.workers
    if workers is None:
        workers = 1 if place.device.type == "cpu" else min(GPU_WORKERS, max(1, cores() // place.count))
    train(options, data, given.out, validation, given.validate_every, quiet, patience=given.patience,
          metadata=metadata, place=place, workers=workers)  # fmt: skip
    if place.rank == 0:
        resume_path(given.out).unlink(missing_ok=True)
        print(given.out)
