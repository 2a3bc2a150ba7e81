"""Reads the options of a request: of a detector the threshold and the like, of a classifier the number of classes.

They are the query of POST /detect, and the parameters of an inference request.
"""

import copy
from typing import Any, Callable, Dict, List, Mapping, Union

from effedge.deploy.common.cli import UserError
from effedge.deploy.runtime.classifier import Classifier
from effedge.deploy.runtime.detector import Detector
from effedge.deploy.runtime.selection import class_ids
from effedge.deploy.serving.refusal import Refusal

Model = Union[Detector, Classifier]
Options = Mapping[str, Union[str, int, float, bool, List[str]]]
BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def with_options(model: Model, options: Options) -> Model:
    """Returns a copy of a model, on the same engine, that selects what a request asks for.

    Raises Refusal (400) for an option that is unknown, or out of its range.
    """
    if not options:
        return model
    try:
        return detector_with(model, options) if isinstance(model, Detector) else classifier_with(model, options)
    except UserError as error:
        raise Refusal(400, str(error)) from error


def detector_with(detector: Detector, options: Options) -> Detector:
    """Returns a copy of a detector with the fields of its Selection that `options` names."""
    parsers: Dict[str, Callable[[Any], Any]] = {
        "threshold": number,
        "iou": number,
        "max_detections": whole_number,
        "classes": lambda value: class_ids(names(value, labels), labels),
        "class_agnostic": boolean,
    }
    labels = detector.engine.all_labels()
    selection = detector.selection._replace(**parsed(options, parsers))
    selection.check()
    changed = copy.copy(detector)
    changed.selection = selection
    return changed


def classifier_with(classifier: Classifier, options: Options) -> Classifier:
    """Returns a copy of a classifier that reports as many classes as the option `top` says."""
    top = parsed(options, {"top": whole_number}).get("top", classifier.top)
    if top < 1:
        raise UserError(f"top={top} was given, expected a whole number from 1 on")
    changed = copy.copy(classifier)
    changed.top = top
    return changed


def parsed(options: Options, parsers: Dict[str, Callable[[Any], Any]]) -> Dict[str, Any]:
    """Parses the options. Raises UserError for one without a parser, and for one whose parser raises ValueError."""
    values = {}
    for name, value in options.items():
        if name not in parsers:
            raise UserError(f"unknown option '{name:.40}': expected {', '.join(parsers)}")
        try:
            values[name] = parsers[name](value)
        except (ValueError, TypeError, OverflowError) as error:
            raise UserError(f"{name}={value!r:.40} was given, expected {error}") from error
    return values


def last(value: Any) -> Any:
    """Returns the last of an option's values, where it is given more than once."""
    return value[-1] if isinstance(value, list) else value


def number(value: Any) -> float:
    """Parses a number."""
    try:
        return float(last(value))
    except (ValueError, TypeError) as error:
        raise ValueError("a number") from error


def whole_number(value: Any) -> int:
    """Parses a whole number."""
    text = str(last(value))
    if not (text.isdecimal() and len(text) < 10):
        raise ValueError("a whole number from 1 on")
    return int(text)


def boolean(value: Any) -> bool:
    """Parses true or false."""
    text = str(last(value)).lower()
    if text not in BOOLEANS:
        raise ValueError("true or false")
    return BOOLEANS[text]


def names(value: Any, labels: List[str]) -> List[str]:
    """Splits names at commas, but for those that are a label as they are."""
    split = []
    for text in value if isinstance(value, list) else [str(value)]:
        split += [text] if text in labels else [part.strip() for part in text.split(",")]
    return split
