"""Explains latencies by two readings of a board (deploy/timing/board.py), around a measurement or of another day."""

from typing import Dict, List, Optional, Tuple

from effedge.deploy.timing.board import Board, PowerMode

CLOCK_TOLERANCE = 0.05  # of a clock under load, which is never the same twice


def mode(power_mode: Optional[PowerMode]) -> Optional[str]:
    """Writes a power mode as "MAXN (0)"."""
    return None if not power_mode else f"{power_mode.get('name') or 'mode'} ({power_mode.get('id')})"


def limits(clocks: Optional[List[int]]) -> Optional[str]:
    """Writes the lowest and the highest clock as "730 to 1728"."""
    return None if not clocks else f"{clocks[0]} to {clocks[1]}"


def settings(facts: Board) -> Dict[str, object]:
    """Reads everything that somebody has set, by name; None where it is not known."""
    cpu = facts.get("cpu")
    values: Dict[str, object] = {
        "power mode": mode(facts.get("power_mode")),
        "CPU governor": cpu.get("governor") if cpu else None,
        "CPU clock limits (MHz)": limits(cpu.get("limits_mhz")) if cpu else None,
    }
    for index, gpu in enumerate(facts.get("gpus") or []):
        values[f"GPU {index}"] = gpu.get("name")
        values[f"GPU {index} clock limits (MHz)"] = limits(gpu.get("limits_mhz"))
        values[f"GPU {index} power limit (W)"] = gpu.get("power_limit_w")
    return values


def differences(recorded: Optional[Board], here: Board) -> List[str]:
    """Tells why latencies that were recorded on a board may not be comparable with those here.

    There is a line for each setting that both readings know and that differs, and for each GPU clock that differs right
    after the measurement; none for a baseline without a board.
    """
    if not recorded:
        return []
    before, now = settings(recorded), settings(here)
    lines = [
        f"{name} was {before[name]} when the baseline was recorded, now it is {now[name]}"
        for name in before
        if before[name] is not None and now.get(name) is not None and before[name] != now[name]
    ]
    for index, (old, new) in enumerate(zip(recorded.get("gpus") or [], here.get("gpus") or [])):
        old_mhz, new_mhz = old.get("mhz"), new.get("mhz")
        if old_mhz and new_mhz and abs(new_mhz / old_mhz - 1) > CLOCK_TOLERANCE:
            lines.append(f"GPU {index} ran at {old_mhz} MHz when the baseline was recorded, now at {new_mhz}")
    return lines


def disturbances(before: Board, after: Board) -> List[str]:
    """Tells what slowed the board down between two readings, or was set anew, as far as they show it."""
    counts = before.get("throttle_counts") or {}
    lines = [
        f"{event}: {count - counts.get(event, 0)} times"
        for event, count in (after.get("throttle_counts") or {}).items()
        if count > counts.get(event, 0)
    ]
    for when, facts in (("at its start", before), ("at its end", after)):
        reasons = list(facts.get("throttled_by") or [])
        for index, gpu in enumerate(facts.get("gpus") or []):
            reasons += [f"GPU {index} {reason}" for reason in gpu.get("throttled_by") or []]
        lines += [f"{reason} {when}" for reason in reasons]
    old, new = settings(before), settings(after)
    lines += [f"{name} went from {old[name]} to {new.get(name)}" for name in old if old[name] != new.get(name)]
    return lines


def notes(recorded: Optional[Board], before: Board, after: Board) -> List[str]:
    """Writes the lines that belong to the verdicts of a latency test.

    Args:
        recorded: the baseline's board.
        before, after: the readings around the measurement.
    """
    lines = [f"note: {line}" for line in differences(recorded, after)]
    return lines + [f"note: not undisturbed, {line}" for line in disturbances(before, after)]


def hottest(facts: Board) -> Optional[Tuple[str, float]]:
    """Returns the hottest sensor of a board and its GPUs, and its degrees."""
    degrees = list((facts.get("temperatures_c") or {}).items())
    for index, gpu in enumerate(facts.get("gpus") or []):
        if gpu.get("temperature_c") is not None:
            degrees.append((f"GPU {index}", gpu["temperature_c"]))
    return max(degrees, key=lambda pair: pair[1]) if degrees else None


def board_lines(before: Board, after: Board) -> List[str]:
    """Writes the readings around a measurement for a reader; no lines where nothing is known."""
    parts = []
    if after.get("power_mode"):
        version = f", Jetson Linux {after['l4t']}" if after.get("l4t") else ""
        parts.append(f"power mode {mode(after['power_mode'])}{version}")
    cpu = after.get("cpu")
    core_mhz = cpu.get("mhz") if cpu else None
    if cpu and core_mhz:
        allowed = f" of {limits(cpu['limits_mhz'])}" if cpu.get("limits_mhz") else ""
        parts.append(f"CPU at {core_mhz[1]} MHz{allowed}, {cpu.get('governor') or 'unknown governor'}")
    for gpu in after.get("gpus") or []:
        if gpu.get("mhz") is not None:
            allowed = f" of {limits(gpu['limits_mhz'])}" if gpu.get("limits_mhz") else ""
            watts = f", {gpu['power_w']:.0f} W" if gpu.get("power_w") is not None else ""
            parts.append(f"{gpu.get('name', 'GPU')} at {gpu['mhz']} MHz{allowed}{watts}")
    hottest_after = hottest(after)
    if hottest_after is not None:
        sensor, degrees = hottest_after
        hottest_before = hottest(before)
        rise = f"{hottest_before[1]:.0f} to " if hottest_before is not None else ""
        parts.append(f"hottest {rise}{degrees:.0f} degrees ({sensor})")
    lines = ["; ".join(parts)] if parts else []
    slowed = disturbances(before, after)
    if slowed:
        lines.append("NOT UNDISTURBED, these figures may be too slow: " + "; ".join(slowed))
    return lines
