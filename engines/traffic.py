"""Computes the bytes that a network's kernels read and write, by type, in INT8 and as if it were FP16.

An edge GPU waits for memory more than for arithmetic, so the ratio of these bytes is what INT8 can save there. It is no
latency: caches, the speed of the kernels themselves and the time of a launch are not in it.

A kernel (engines/fusion.py) reads each of its inputs and weights once, and writes each tensor that another kernel
reads.
"""

from typing import Dict, List, Optional, Tuple

from effedge.deploy.common.contracts import TrafficEntry
from effedge.engines.fusion import Graph
from effedge.engines.onnx_header import Header
from effedge.engines.targets import Target


def traffic_on(target: Target, header: Header, precision: str, dla: str) -> Tuple[Optional[TrafficEntry], str]:
    """Returns the traffic of an engine on a target's GPU, or None and the reason; for a CPU there is no reason.

    Args:
        precision: of the engine; empty: 16 bits, where flags choose it.
        dla: as of BuildOptions.
    """
    if target.on_cpu:
        return None, ""
    if precision == "int8" and not header.quantized_layers:
        return None, "INT8 is by ranges, so that TensorRT chooses the type of each tensor"
    entry = traffic(header, typed=precision == "fp32" or target.typed_for(dla))
    return entry, "" if entry else "the ONNX does not state the shapes of its tensors"


def traffic(header: Header, typed: bool) -> Optional[TrafficEntry]:
    """Returns the traffic of a network, in MiB for one run; None where the file does not state its tensors' shapes.

    Args:
        typed: each type is the file's own, as in a typed network and in any of fp32. Otherwise float32 is computed in
            16 bits, by a flag.
    """
    by_kind: Dict[str, Tuple[int, int]] = {}
    by_type: List[Dict[str, int]] = []
    for quantized in (True, False):
        graph = Graph(header, quantized, half=not (typed and quantized))
        if graph.unknown_shapes:
            return None
        sums: Dict[str, int] = {}
        for kernel in graph.kernels():
            with_pairs, without = by_kind.get(kernel.kind, (0, 0))
            more = (kernel.bytes, 0) if quantized else (0, kernel.bytes)
            by_kind[kernel.kind] = (with_pairs + more[0], without + more[1])
            for kind, size in kernel.tensors:
                sums[kind] = sums.get(kind, 0) + size
        by_type.append(sums)
    total, fp16 = (sum(sums.values()) for sums in by_type)
    rows = sorted(by_kind.items(), key=lambda row: -row[1][1])
    return {
        "mib": mib(total),
        "fp16_mib": mib(fp16),
        "ratio": round(total / fp16, 3),
        "by_type": {kind: mib(size) for kind, size in sorted(by_type[0].items(), key=lambda item: -item[1])},
        "by_kind": {kind: {"mib": mib(sizes[0]), "fp16_mib": mib(sizes[1])} for kind, sizes in rows},
    }


def describe_traffic(entry: TrafficEntry) -> List[str]:
    """Returns the traffic in lines: the sum, and the kinds of kernels in a table."""
    types = ", ".join(f"{kind} {size:.1f}" for kind, size in entry["by_type"].items() if size >= 0.05)
    lines = [
        f"traffic: {entry['mib']:.1f} MiB a run ({types}), {entry['ratio']:.2f} times as much as in FP16; no latency",
        f"{'kernels':24} {'MiB':>8} {'in FP16':>8} {'ratio':>6}",
    ]
    for kind, row in entry["by_kind"].items():
        if row["fp16_mib"] >= 0.05:
            ratio = row["mib"] / row["fp16_mib"]
            lines.append(f"{kind:24} {row['mib']:8.1f} {row['fp16_mib']:8.1f} {ratio:6.2f}")
    return lines


def mib(size: int) -> float:
    """Returns bytes in MiB, to two decimals."""
    return round(size / 2**20, 2)
