"""Gives a network's tensors their INT8 ranges from a calibration cache, for INT8 without Q/DQ pairs, as a DLA takes it.

The ranges are set one by one (ITensor.dynamic_range) rather than by a calibrator that only reads the cache: that one
must be of the very TensorRT that the cache's first line names, or TensorRT calibrates anew. A layer runs in INT8 if its
inputs and its outputs have ranges. TensorRT 11 has no such ranges. The format is that of calibration/tensorrt_cache.py.
"""

import re
import struct
from pathlib import Path
from typing import Any, Dict, List

from effedge.deploy.common.cli import UserError
from effedge.engines.tensorrt import api

FIRST_LINE = re.compile(r"TRT-\d+-\w+")
INT8_MAX = 127
REMEDY = "effedge tensorrt-cache writes it, with the float ONNX that it goes with"


def read_ranges(path: Path) -> Dict[str, float]:
    """Returns the largest magnitude of each tensor that the cache names. Raises UserError for another file."""
    try:
        first, *lines = path.read_text().splitlines() or [""]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the calibration cache '{path}': {error}; {REMEDY}") from error
    if not FIRST_LINE.fullmatch(first.strip()):
        raise UserError(f"'{path}' is no calibration cache, its first line is '{first[:40]}': {REMEDY}")
    ranges = {}
    for number, line in enumerate(lines, 2):
        name, _, digits = line.rpartition(": ")
        if not re.fullmatch(r"[0-9a-fA-F]{1,8}", digits.strip()):  # TensorRT leaves leading zeros out
            raise UserError(
                f"line {number} of the calibration cache '{path}' is '{line[:60]}', expected 'tensor: scale'"
            )
        (scale,) = struct.unpack(">f", bytes.fromhex(digits.strip().zfill(8)))
        ranges[name] = scale * INT8_MAX
    return ranges


def set_ranges(network: Any, ranges: Dict[str, float], path: Path) -> int:
    """Sets the ranges of the network's tensors; returns the number of tensors that have one.

    Raises UserError if more than a tenth of the tensors that the cache names are not in the network: the cache belongs
    to another ONNX then. (A tensor that only gets another name in the ONNX has one name in the network.)
    """
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    tensors = [network.get_input(index) for index in range(network.num_inputs)]
    tensors += [layer.get_output(index) for layer in layers for index in range(layer.num_outputs)]
    by_name = {tensor.name: tensor for tensor in tensors}
    strangers: List[str] = sorted(set(ranges) - set(by_name))
    if len(strangers) > len(ranges) / 10 or not ranges:
        lacking = f"names '{strangers[0]}', which the ONNX does not have" if strangers else "has no ranges"
        raise UserError(f"'{path}' {lacking}: give the float ONNX that effedge tensorrt-cache wrote with it")
    given = [name for name, value in ranges.items() if name in by_name and value > 0]  # 0: a tensor that is always 0
    for name in given:
        api.set_range(by_name[name], ranges[name])
    return len(given)
