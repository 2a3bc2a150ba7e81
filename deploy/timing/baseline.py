"""The fields of a latency baseline (deploy/latency_test.py) and what each may hold.

A verdict rests on these numbers: NaN, null or zero for a latency would make any engine pass.
"""

from typing import Any, Mapping, Optional

from effedge.deploy.runtime.manifest_fields import (
    Check,
    integer,
    is_boolean,
    is_text,
    list_of,
    object_of,
    optional,
)

SHORTEST_MS, LONGEST_MS = 1e-6, 1e9
MOST_THREADS, MOST_ROUNDS = 1 << 10, 1 << 20  # of the reference workload
MOST = 1 << 53  # of a count
LEAST_LOADS = 2  # one has no interval


def is_number(value: Any) -> bool:
    """Returns True for a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < MOST


def is_latency(value: Any) -> bool:
    """Returns True for milliseconds."""
    return is_number(value) and SHORTEST_MS <= value <= LONGEST_MS


def has(fields: Mapping[str, Check]) -> Check:
    """Returns the check of an object; of `fields`, those that are there pass their checks."""
    return lambda value: (
        isinstance(value, dict) and all(check(value[name]) for name, check in fields.items() if name in value)
    )


def whole(fields: Mapping[str, Check]) -> Check:
    """Returns the check of an object that has all of `fields`, and perhaps others."""
    check = has(fields)
    return lambda value: check(value) and fields.keys() <= value.keys()


COUNT = integer(0, MOST)
SIZE = whole({"threads": integer(1, MOST_THREADS), "rounds": integer(1, MOST_ROUNDS)})
SPAN = optional(list_of(COUNT, 2))
GPU = has({
    "name": optional(is_text), "mhz": optional(COUNT), "limits_mhz": SPAN, "temperature_c": optional(is_number),
    "power_w": optional(is_number), "power_limit_w": optional(is_number), "throttled_by": optional(list_of(is_text)),
})  # fmt: skip
BOARD = has({
    "l4t": optional(is_text),
    "power_mode": optional(has({"id": COUNT, "name": optional(is_text)})),
    "cpu": optional(has({"governor": optional(is_text), "mhz": SPAN, "limits_mhz": SPAN})),
    "gpus": optional(list_of(GPU)),
    "temperatures_c": optional(object_of(is_number)),
    "throttled_by": optional(list_of(is_text)),
    "throttle_counts": optional(object_of(COUNT)),
})  # fmt: skip
ROWS = object_of(list_of(is_latency))
REQUIRED: Mapping[str, Check] = {
    "engine": whole({"folder": is_text, "files": object_of(is_text)}),
    "machine": whole({"cpu": is_text, "cores": COUNT}),
    "versions": object_of(is_text),
    "reference": lambda value: SIZE(value) and len(value) == 2,  # they are a Reference's arguments
    "loads": lambda value: list_of(COUNT)(value) and len(set(value)) >= LEAST_LOADS,
    "ms": ROWS,
    "yardstick_ms": ROWS,
}
OPTIONAL: Mapping[str, Check] = {"board": optional(BOARD), "kept": is_boolean}


def wrong_field(content: Mapping[str, Any]) -> Optional[str]:
    """Returns the name of a field that is missing or holds what it may not; None if all are right."""
    for name, check in {**REQUIRED, **OPTIONAL}.items():
        if (name in content or name in REQUIRED) and not check(content.get(name)):
            return name
    rows = [*content["ms"].values(), *content["yardstick_ms"].values()]
    if not content["ms"] or any(len(row) != len(content["loads"]) for row in rows):
        return "ms"
    return None if content["ms"].keys() == content["yardstick_ms"].keys() else "yardstick_ms"
