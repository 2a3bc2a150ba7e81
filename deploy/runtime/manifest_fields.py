"""The fields of a manifest and what each may hold: whatever reads a manifest may rely on their types and limits.

A field is checked where it is present; what needs a field says so where it is missing.
"""

from typing import Any, Callable, Mapping, Optional

Check = Callable[[Any], bool]

# Limits that no engine of effedge comes near, and behind which an image's preparation would take all memory.
MAX_SIDE, MAX_PIXELS = 1 << 14, 1 << 26
MAX_BATCH = 1 << 16
MAX_SIZE = 1 << 62
LEAST_CROP = 0.05


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_object(value: Any) -> bool:
    return isinstance(value, dict)


def is_boolean(value: Any) -> bool:
    return isinstance(value, bool)


def integer(low: int, high: int) -> Check:
    """Returns the check of an integer from `low` to `high`."""
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def list_of(check: Check, length: Optional[int] = None) -> Check:
    """Returns the check of a list of values that pass `check`; of `length` of them, if it is given."""
    return lambda value: isinstance(value, list) and length in (None, len(value)) and all(map(check, value))


def object_of(check: Check) -> Check:
    """Returns the check of an object whose values pass `check`."""
    return lambda value: isinstance(value, dict) and all(map(check, value.values()))


def optional(check: Check) -> Check:
    """Returns the check of null, or of a value that passes `check`."""
    return lambda value: value is None or check(value)


def is_size(value: Any) -> bool:
    return list_of(integer(1, MAX_SIDE), 2)(value) and value[0] * value[1] <= MAX_PIXELS


def is_batch(value: Any) -> bool:
    return list_of(integer(1, MAX_BATCH), 3)(value) and value == sorted(value)


def is_crop(value: Any) -> bool:
    return isinstance(value, (int, float)) and LEAST_CROP <= value <= 1


def is_share(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


def is_tensor(value: Any) -> bool:
    """Checks an entry of `inputs` or `outputs`."""
    shape = optional(list_of(lambda size: is_text(size) or integer(0, MAX_SIZE)(size)))
    return is_object(value) and is_text(value.get("name")) and is_text(value.get("dtype")) and shape(value.get("shape"))


REQUIRED = ("spec", "backend", "engine", "files")
FIELDS: Mapping[str, Check] = {
    "spec": is_object,
    "spec.model": is_text,
    "spec.weights": is_text,
    "spec.task": is_text,
    "spec.labels": list_of(optional(is_text)),
    "spec.candidates": integer(1, MAX_SIZE),
    "spec.iou": is_share,
    "spec.input": is_object,
    "spec.input.size": is_size,
    "spec.input.batch": is_batch,
    "spec.input.interpolation": is_text,
    "spec.input.resize": is_text,
    "spec.input.fill": list_of(integer(0, 255), 3),
    "spec.input.crop": is_crop,
    "inputs": list_of(is_tensor),
    "outputs": list_of(is_tensor),
    "batch": optional(is_batch),
    "precision": is_object,
    "target": is_text,
    "backend": is_object,
    "backend.name": is_text,
    "backend.version": is_text,
    "backend.config": object_of(is_text),
    "backend.fp8": is_boolean,
    "backend.cpu_blocks": is_object,
    "backend.version_compatible": is_boolean,
    "backend.dla": is_object,
    "engine": is_text,
    "files": object_of(is_text),
    "warnings": list_of(is_text),
}


def wrong_field(content: Mapping[str, Any]) -> Optional[str]:
    """Returns the name ("spec.input.size") of the first field that is missing or holds what it may not; None if all
    are right."""
    for field, check in FIELDS.items():
        value: Any = content
        *parents, name = field.split(".")
        for parent in parents:
            value = value.get(parent, {})  # an object, as its own row says, which comes before
        if name in value:
            if not check(value[name]):
                return field
        elif field in REQUIRED:
            return field
    return None
