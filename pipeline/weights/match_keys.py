"""Finds the tensors of a model in a trainer's file, under whatever prefix and in whatever dict they lie.

A prefix is the dotted path in front of a model's own keys: "state_dict.model." or "ema.net.encoder.". Every prefix
that stands in front of a key of the model is tried. Of several sets of tensors that fit:

1. the set with most tensors that match by key and shape is taken, then that with fewest that the model lacks;
2. then averaged weights (EMA, SWA), which trainers keep for deployment;
3. then the names that trainers give to their last weights, and then the shortest prefix.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from torch import Tensor

from effedge.pipeline.weights.key_dialects import BIAS_OF_NORM, dialect_of, translate

STEMS = ("backbone_net.model._conv_stem.", "_conv_stem.")  # of the translated dialects; the longer one first
AVERAGED = re.compile(r"(^|[._])(ema|swa|averaged?|shadow)([._]|$)|ema_model|model_ema", re.IGNORECASE)
USUAL = ("state_dict", "model_state_dict", "model", "net", "")
COUNTER = "num_batches_tracked"
# Their sizes follow from classes and anchors, so they match in any size; `effedge.pipeline.weights.load` reads those.
HEADS = ("classifier.", "class_net.predict.", "box_net.predict.")
# Tensors that nothing here reads: the profiler thop's, and the head of a classifier that became a backbone.
UNREAD = re.compile(r".*\.total_(ops|params)|backbone\.(conv_head|bn2|classifier)\..*")


class Match(NamedTuple):
    """A set of tensors that fits a model.

    prefix: in front of the keys in the file.
    state: by the model's keys; also of the wrong shape.
    matching: keys of the model that `state` has in their shape, counters left aside.
    surplus: keys that belong to the modules of the model, but not to this model.
    dialect: the project whose keys were translated; None for timm's and effdet's.
    """

    prefix: str
    state: dict[str, Tensor]
    matching: int
    surplus: list[str]
    dialect: str | None

    @property
    def averaged(self) -> bool:
        """True for weights that were averaged over the training."""
        return AVERAGED.search(self.prefix) is not None

    def rank(self) -> tuple[object, ...]:
        """Returns the sort key by the module's rules; the smallest is the best."""
        names = self.prefix.removesuffix(".").split(".")
        usual = next((place for place, name in enumerate(USUAL) if names[0] == name), len(USUAL))
        return -self.matching, len(self.surplus), not self.averaged, usual, len(names), self.prefix


def find_matches(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[Match]:
    """Finds the sets of tensors that fit a model about as well as the best does; the best is the first.

    Args:
        tensors: of the file, by dotted path.
        expected: the model's state dict, on any device.

    Returns:
        The matches with at least 9 of 10 matching tensors of the best; empty if no tensor of the file has a key of the
        model.
    """
    matches = [_match(prefix, tensors, expected) for prefix in _prefixes(tensors, expected)]
    matches.sort(key=Match.rank)
    return [each for each in matches if each.matching >= 0.9 * matches[0].matching and each.matching]


def _prefixes(tensors: Iterable[str], expected: Mapping[str, Tensor]) -> list[str]:
    """Lists the prefixes that may be a model's: those of most keys, and those in front of another project's stem."""
    counts: Counter[str] = Counter()
    stems = set()
    for key in tensors:
        start = 0
        while start >= 0:
            if key[start:] in expected:
                counts[key[:start]] += 1
            start = key.find(".", start) + 1 or -1
        stem = next((stem for stem in STEMS if f".{stem}" in f".{key}"), None)
        if stem is not None:
            stems.add(key[: f".{key}".index(f".{stem}")])
    most = max(counts.values(), default=0)
    return sorted({prefix for prefix, count in counts.items() if count >= most / 2} | stems)


def _match(prefix: str, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Match:
    """Takes the tensors with `prefix`, translates their keys, and counts those that match."""
    raw = {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
    state = translate(raw, expected)
    matching = sum(
        key in expected and (key.startswith(HEADS) or value.shape == expected[key].shape)
        for key, value in state.items()
        if not key.endswith(COUNTER)
    )
    modules = {key.split(".")[0] for key in expected}
    surplus = [
        key
        for key in state
        if key.split(".")[0] in modules
        and key not in expected
        and not (key.endswith(COUNTER) or UNREAD.fullmatch(key) or BIAS_OF_NORM.fullmatch(key))
    ]
    own = {key: state[key] for key in expected if key in state}
    return Match(prefix, own | _biases(state), matching, surplus, dialect_of(raw))


def _biases(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the biases in front of BatchNorm, which a model may lack."""
    return {key: value for key, value in state.items() if BIAS_OF_NORM.fullmatch(key)}
