"""Train a model: focal and Huber loss for detectors, cross-entropy for classifiers.

    python -m pipeline.train b0 --data digits --size 64 --steps 2000 --batch 64 --out b0.safetensors
    python -m pipeline.train d0 --data train.json --val val.json --init d0:coco --out mine.safetensors

DATA: `digits` (drawn, no download), a COCO json, a Pascal VOC folder, a folder with a folder for each class, or a .tsv
of file<TAB>class. Classes and labels are the data's. What is validated and kept is an exponential moving average of the
weights. A checkpoint is written every minute beside OUT; after Ctrl-C or a kill the same command goes on from it, to
the same weights.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from deploy.cli import UserError, run
from deploy.files import explain_os_error
from pipeline.checkpoint import save_weights
from pipeline.data.problems import line_by_line
from pipeline.data.report import report
from pipeline.efficientnet import DROP_CONNECT
from pipeline.ema import Ema
from pipeline.initial import initialize
from pipeline.interrupt import Interrupts, leave_to_parent
from pipeline.losses import detection_loss
from pipeline.mbconv import MBConv1, MBConv6
from pipeline.optimize import learning_rate, make_optimizer
from pipeline.published import Preprocessing, preprocessing
from pipeline.resume import TrainingState, load_resume, resume_path, save_resume
from pipeline.samples import DetectionBatch, Samples, or_error
from pipeline.training_data import DIGITS, TrainingData, training_data
from pipeline.training_log import TrainingLog
from pipeline.training_options import Options, make_parser, read_options
from pipeline.validation import Validation, make_validation
from pipeline.zoo import create_model, is_detector, normalization

CHECKPOINT_SECONDS = 60.0
GRADIENT_NORM = 10.0
EMA_DECAY = 0.998


def make_loader(options: Options, data: TrainingData, start: int) -> DataLoader:
    """Batches from step `start` on; a UserError in place of one that cannot be made."""
    return DataLoader(
        Samples(data.draw, start * options.batch, options.steps * options.batch),
        options.batch,
        collate_fn=or_error(data.collate),
        num_workers=1,
        prefetch_factor=4,
        multiprocessing_context="fork",
        worker_init_fn=leave_to_parent,
        generator=torch.Generator(),  # its own, so that going on draws nothing from the model's
    )


def make_normalize(model: str) -> Callable[[Tensor], Tensor]:
    """uint8 [N,H,W,3] -> normalized float [N,3,H,W] in channels-last memory, which trains twice as fast on CPUs."""
    mean, std = (torch.tensor(values).mul(255.0) for values in normalization(model))
    return lambda images: ((images - mean) / std).permute(0, 3, 1, 2)


def batch_loss(model: nn.Module, images: Tensor, batch: Any, classes: int) -> dict[str, Tensor]:
    """The parts of the loss by name; their sum is what is minimized."""
    if isinstance(batch, DetectionBatch):
        class_levels, box_levels = model(images)
        targets = (batch.picture, batch.anchor, batch.class_ids, batch.codes)
        class_loss, box_loss = detection_loss(class_levels, box_levels, *targets, classes)
        return {"class": class_loss, "box": box_loss}
    return {"class": F.cross_entropy(model(images), batch.class_ids, label_smoothing=0.1)}


def train_step(state: TrainingState, batch: Any, normalize: Callable[[Tensor], Tensor], options: Options, classes: int
               ) -> dict[str, Tensor]:  # fmt: skip
    """One step, from the loss to the average; returns the loss's parts."""
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(state.step, options.steps, options.rate, options.warmup)
    parts = batch_loss(state.model, normalize(batch.images), batch, classes)
    loss = torch.stack(list(parts.values())).sum()
    if not torch.isfinite(loss):
        raise UserError(f"the loss became {loss.item()} at step {state.step}: lower --rate (it is {options.rate})")
    state.optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(state.model.parameters(), GRADIENT_NORM)
    state.optimizer.step()
    state.ema.update(state.model, state.step)
    state.step += 1
    return parts


def freeze_norm(model: nn.Module) -> None:
    """Let BatchNorm use its running statistics in training too, and leave them; its scales and biases still learn.

    With a few pictures in a batch, one unlike the others is divided by its own large variance, which hides from the
    loss what the running statistics will make of it: D0 so trained found hundreds of digits in a picture of fur.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def start_state(options: Options, classes: int, resume: Path, run_key: dict[str, Any], quiet: bool) -> TrainingState:
    """The state before the first step, or the one that `resume` keeps if it is there."""
    torch.manual_seed(options.seed)
    model: nn.Module = create_model(options.model, classes, options.size)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for module in model.modules():
        if isinstance(module, MBConv1 | MBConv6):
            module.drop_rate *= options.drop_connect / DROP_CONNECT
    said = initialize(model, options.model, options.init, quiet) if options.init and not resume.exists() else ""
    model.train()
    if options.freeze_norm:
        freeze_norm(model)
    state = TrainingState(model, Ema(model, EMA_DECAY), make_optimizer(model, options.decay))
    if resume.exists():
        load_resume(resume, run_key, state)
        said = f"going on from step {state.step} of {options.steps}"
    if said and not quiet:
        print(said, flush=True)
    return state


def train(
    options: Options, data: TrainingData, out: Path, validation: Validation | None, every: int | None, quiet: bool
) -> tuple[dict[str, Tensor], float | None]:
    """Run the training, going on from the checkpoint beside `out` if there is one.

    Args:
        every: validate every so many steps; at the end it is done in any case.

    Returns:
        The averaged weights, and the validation's figure.

    Raises:
        UserError: a loss that is not finite, a resume file that is damaged or of another run, a picture that cannot be
            read, or Ctrl-C (once the state is safe).
    """
    resume = resume_path(out)
    run_key = dataclasses.asdict(options) | {"annotations": data.digest}
    state = start_state(options, len(data.labels), resume, run_key, quiet)
    normalize, log = make_normalize(options.model), TrainingLog(state.step, options.steps, quiet)
    kept = time.monotonic()

    def validate() -> float | None:
        if validation is None:
            return None
        figure = validation(state.model, state.ema.state)
        log.say(f"step {state.step}: validation {validation.figure} {'-' if figure is None else f'{figure:.4f}'}")
        return figure

    with Interrupts() as interrupts:
        try:
            with interrupts.deferred():  # in the worker, a copy of this process, it stays so
                batches = iter(make_loader(options, data, state.step))
            for batch in batches:
                if isinstance(batch, UserError):
                    raise batch
                with interrupts.deferred():
                    parts = train_step(state, batch, normalize, options, len(data.labels))
                log.step(state.step, parts)
                if every and state.step % every == 0 and state.step < options.steps:
                    validate()
                if time.monotonic() - kept > CHECKPOINT_SECONDS or state.step == options.steps:
                    save_resume(resume, run_key, state)
                    kept = time.monotonic()
            log.bar.close()
            return dict(state.ema.state), validate()
        except KeyboardInterrupt:
            with interrupts.deferred():
                save_resume(resume, run_key, state)
            done = f"interrupted after step {state.step} of {options.steps}"
            raise UserError(f"{done}: the state is kept in '{resume}', and the same command goes on from it") from None
        finally:
            log.bar.close()


def check_out(out: Path) -> None:
    """UserError if the weights could not be written in the end."""
    if out.suffix != ".safetensors" or out.is_dir():
        raise UserError(f"--out '{out}': expected a file name that ends in .safetensors")
    with explain_os_error(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out.parent).close()


def describe(options: Options, data: TrainingData) -> str:
    samples = options.steps * options.batch
    epochs = "" if data.pictures is None else f", {samples / data.pictures:.1f} epochs of {data.pictures} pictures"
    return f"{len(data.labels)} classes, {options.steps} steps of {options.batch}{epochs}"


def look_of(options: Options) -> tuple[Preprocessing, dict[str, str]]:
    """How the weights will want their pictures, and what of that must be written with them."""
    look = preprocessing(options.model, "")
    if options.data == DIGITS and not is_detector(options.model):
        return look._replace(crop=1.0), {"crop": "1.0"}  # a drawn crop is the whole input
    return look, {}


def main() -> None:
    given = make_parser(__doc__ or "").parse_args()
    options = read_options(given)
    check_out(given.out)
    look, metadata = look_of(options)
    val, validation = given.val or (DIGITS if options.data == DIGITS else None), None
    with line_by_line():
        data = training_data(options.model, options.data, given.images, options.size, options.seed, options.variety,
                             given.quiet)  # fmt: skip
        if val is not None:
            validation = make_validation(options.model, val, given.val_images or given.images, data.labels,
                                         options.size, look, given.quiet)  # fmt: skip
    if not given.quiet:
        if data.checked is not None:
            print("\n".join(report(data.checked, options.model, options.size)))
        print(f"training {options.model} at {options.size}: {describe(options, data)}", flush=True)
    weights, figure = train(options, data, given.out, validation, given.validate_every, given.quiet)
    metadata |= {"model": options.model, "labels": json.dumps(data.labels), "size": str(options.size)}
    metadata["options"] = json.dumps(dataclasses.asdict(options))
    if validation is not None and figure is not None:
        metadata["val_" + validation.figure.replace("-", "").lower()] = f"{figure:.4f}"
        metadata["val_data"] = val or ""
    save_weights(weights, given.out, metadata)
    resume_path(given.out).unlink(missing_ok=True)
    print(given.out)


if __name__ == "__main__":
    run(main)
