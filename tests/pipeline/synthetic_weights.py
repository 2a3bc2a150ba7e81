"""Makes weights from the names of a state dict's keys, equal for every implementation with the same keys."""

import zlib

import numpy as np
import torch


def fill(state):
    """Makes a state dict with the keys and shapes of `state` and numbers from RandomState(crc32 of the key).

    Kernels and matrices are N(0, 2 / fan-in), running variances uniform in [0.5, 1.5), fusion weights N(1, 0.1), other
    vectors N(0, 0.1), but a BatchNorm's weights N(0.5, 0.1). Counters are 0.
    """
    return {key: torch.from_numpy(values(key, tensor, state)).to(tensor.dtype) for key, tensor in state.items()}


def values(key, tensor, state):
    shape = tuple(tensor.shape)
    if not tensor.is_floating_point():
        return np.zeros(shape)
    random = np.random.RandomState(zlib.crc32(key.encode()))
    stem, _, kind = key.rpartition(".")
    if kind == "running_var":
        return np.asarray(random.rand(*shape) + 0.5)
    noise = np.asarray(random.randn(*shape))
    if kind == "edge_weights":
        return 1 + 0.1 * noise
    if len(shape) > 1:
        return noise * np.sqrt(2 / np.prod(shape[1:]))
    is_norm = kind == "weight" and f"{stem}.running_mean" in state
    return 0.1 * noise + (0.5 if is_norm else 0.0)
