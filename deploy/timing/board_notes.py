"""What two readings of a board (deploy/timing/board.py) say about the latencies between them, or about a baseline's."""

from typing import Any, Dict, List, Mapping, Optional, Tuple

CLOCK_TOLERANCE = 0.05  # of a clock under load, which is never the same twice
NAMES = {
    "power mode": lambda facts: mode(facts.get("power_mode")),
    "CPU governor": lambda facts: (facts.get("cpu") or {}).get("governor"),
    "CPU clock limits (MHz)": lambda facts: limits((facts.get("cpu") or {}).get("limits_mhz")),
}


def mode(found: Optional[Mapping[str, Any]]) -> Optional[str]:
    return None if not found else f"{found.get('name') or 'mode'} ({found.get('id')})"


def limits(found: Optional[List[int]]) -> Optional[str]:
    return None if not found else f"{found[0]} to {found[1]}"


def settings(facts: Mapping[str, Any]) -> Dict[str, Any]:
    """What somebody has set, by name."""
    found = {name: read(facts) for name, read in NAMES.items()}
    for index, gpu in enumerate(facts.get("gpus") or []):
        found[f"GPU {index}"] = gpu.get("name")
        found[f"GPU {index} clock limits (MHz)"] = limits(gpu.get("limits_mhz"))
        found[f"GPU {index} power limit (W)"] = gpu.get("power_limit_w")
    return found


def differences(recorded: Optional[Mapping[str, Any]], here: Mapping[str, Any]) -> List[str]:
    """Why latencies recorded on a board may not be comparable with those here: a line for each setting that both know
    and that differs, and for each GPU clock, read right after a measurement. None for a baseline that has no board."""
    if not recorded:
        return []
    before, now = settings(recorded), settings(here)
    lines = [
        f"{name} was {before[name]} when the baseline was recorded, now it is {now[name]}"
        for name in before
        if before[name] is not None and now.get(name) is not None and before[name] != now[name]
    ]
    for index, (old, new) in enumerate(zip(recorded.get("gpus") or [], here.get("gpus") or [])):
        was, runs = old.get("mhz"), new.get("mhz")
        if was and runs and abs(runs / was - 1) > CLOCK_TOLERANCE:
            lines.append(f"GPU {index} ran at {was} MHz when the baseline was recorded, now at {runs}")
    return lines


def disturbances(before: Mapping[str, Any], after: Mapping[str, Any]) -> List[str]:
    """What slowed the board down between two readings, or was changed, as far as they show it."""
    counted = before.get("throttle_counts") or {}
    found = [
        f"{what}: {count - counted.get(what, 0)} times"
        for what, count in (after.get("throttle_counts") or {}).items()
        if count > counted.get(what, 0)
    ]
    for when, facts in (("at its start", before), ("at its end", after)):
        reasons = list(facts.get("throttled_by") or [])
        for index, gpu in enumerate(facts.get("gpus") or []):
            reasons += [f"GPU {index} {reason}" for reason in gpu.get("throttled_by") or []]
        found += [f"{reason} {when}" for reason in reasons]
    old, new = settings(before), settings(after)
    found += [f"{name} went from {old[name]} to {new.get(name)}" for name in old if old[name] != new.get(name)]
    return found


def notes(recorded: Optional[Mapping[str, Any]], before: Mapping[str, Any], after: Mapping[str, Any]) -> List[str]:
    """What should be known with the verdicts of a latency test, a line each: from the baseline's board, and from the
    readings before and after the measurement."""
    lines = [f"note: {line}" for line in differences(recorded, after)]
    return lines + [f"note: not undisturbed, {line}" for line in disturbances(before, after)]


def hottest(facts: Mapping[str, Any]) -> Optional[Tuple[str, float]]:
    """(the sensor, its degrees), of a board and its GPUs."""
    found = list((facts.get("temperatures_c") or {}).items())
    for index, gpu in enumerate(facts.get("gpus") or []):
        if gpu.get("temperature_c") is not None:
            found.append((f"GPU {index}", gpu["temperature_c"]))
    return max(found, key=lambda pair: pair[1]) if found else None


def board_lines(before: Mapping[str, Any], after: Mapping[str, Any]) -> List[str]:
    """Two readings, around a measurement, for a reader; nothing where nothing is known."""
    parts = []
    if after.get("power_mode"):
        version = f", Jetson Linux {after['l4t']}" if after.get("l4t") else ""
        parts.append(f"power mode {mode(after['power_mode'])}{version}")
    cpu = after.get("cpu") or {}
    if cpu.get("mhz"):
        allowed = f" of {limits(cpu['limits_mhz'])}" if cpu.get("limits_mhz") else ""
        parts.append(f"CPU at {cpu['mhz'][1]} MHz{allowed}, {cpu.get('governor') or 'unknown governor'}")
    for gpu in after.get("gpus") or []:
        if gpu.get("mhz") is not None:
            allowed = f" of {limits(gpu['limits_mhz'])}" if gpu.get("limits_mhz") else ""
            watts = f", {gpu['power_w']:.0f} W" if gpu.get("power_w") is not None else ""
            parts.append(f"{gpu.get('name', 'GPU')} at {gpu['mhz']} MHz{allowed}{watts}")
    warm = hottest(after)
    if warm is not None:
        was = hottest(before)
        rise = f"{was[1]:.0f} to " if was is not None else ""
        parts.append(f"hottest {rise}{warm[1]:.0f} degrees ({warm[0]})")
    lines = ["; ".join(parts)] if parts else []
    slowed = disturbances(before, after)
    if slowed:
        lines.append("NOT UNDISTURBED, these figures may be too slow: " + "; ".join(slowed))
    return lines
