"""Computes a model's width, depth and resolution from the compound coefficient phi.

EfficientNet: Tan and Le 2019, section 3.3: depth alpha^phi, width beta^phi, resolution gamma^phi, with
alpha * beta^2 * gamma^2 about 2, so that the FLOPs grow as 2^phi. EfficientDet: Tan, Pang and Le 2020, section 4.2,
equations 1 to 3. The published models follow these rules only roughly: `effedge.pipeline.models.tables` holds the
published numbers, and the tests compare them with the rules.
"""

import math

ALPHA, BETA, GAMMA = 1.2, 1.1, 1.15


def round_channels(channels: float, divisor: int = 8, least: float = 0.9) -> int:
    """Rounds to the nearest multiple of `divisor`, but never below the share `least` of `channels`.

    >>> round_channels(32 * 1.8)
    56
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < least * channels else rounded


def round_layers(layers: int, depth: float) -> int:
    """Multiplies layers by depth and rounds up.

    >>> round_layers(4, 2.6)
    11
    """
    return math.ceil(layers * depth)


def efficientnet_coefficients(phi: float) -> tuple[float, float, float]:
    """Returns the multipliers (width, depth, resolution) of EfficientNet-B0 for `phi`."""
    return BETA**phi, ALPHA**phi, GAMMA**phi


def efficientdet_coefficients(phi: int) -> tuple[float, int, int, int]:
    """Returns (BiFPN width, BiFPN layers, head layers, input size) of EfficientDet-D`phi`."""
    return 64 * 1.35**phi, 3 + phi, 3 + phi // 3, 512 + 128 * phi
