"""Leaves a trained classifier two things to learn, as FixRes does: its classifier and its last BatchNorm.

Touvron et al. 2019, "Fixing the train-test resolution discrepancy" (arXiv 1906.06423), section 4.2: objects look larger
in training, by its random crops, than in use. So a network is trained at a smaller resolution than it is used at, where
they look alike. What then differs are the statistics of the activations that are pooled over an image; the BatchNorm in
front of the pooling and the classifier behind it are fine-tuned to them, at the resolution of use and with images cut
as in use. All else stays as it was, so a step costs little more than its forward pass.
"""

from __future__ import annotations

from pathlib import Path

from effedge.deploy.common.cli import UserError
from effedge.pipeline.models.efficientnet import EfficientNet
from effedge.pipeline.weights.fit import fit
from effedge.pipeline.weights.state_file import read_file


def freeze_all_but_last(model: EfficientNet) -> None:
    """Puts a classifier into evaluation, without gradients, but for the parts that learn.

    Those are the last BatchNorm's scale, bias and statistics, and the classifier's weights. Dropout and stochastic
    depth are off, as in the authors' code (facebookresearch/FixRes, `imnet_finetune/train.py`).
    """
    model.eval().requires_grad_(False)
    model.bn2.train().requires_grad_(True)
    model.classifier.requires_grad_(True)


def load_trained(model: EfficientNet, name: str, init: str, file: Path) -> None:
    """Loads a trained classifier, all of it.

    Raises:
        UserError: as `effedge.pipeline.weights.fit.fit`, or a classifier of another number of classes.
    """
    fitted = fit(name, read_file(file).tensors, file, None)
    if fitted.classes != model.classes:
        raise UserError(
            f"--recipe fixres fine-tunes a trained classifier, and --init '{init}' has {fitted.classes} classes where "
            f"the data has {model.classes}: train it on this data with another recipe first"
        )
    model.load_state_dict(fitted.state)
