"""Arrays on a GPU, and the letterbox's buffers, as the tests and the timing of the kernels need them."""

import numpy as np

from effedge.deploy.image.resample import resample_table
from effedge.deploy.runtime.tensorrt.detector_steps import Place


def uploaded(gpu, stream, array):
    buffer = gpu.buffer(array.nbytes)
    buffer.view(array.dtype, array.shape)[...] = array
    buffer.upload(array.nbytes, stream)
    return buffer


def placed(gpu, stream, image, resized):
    """(the buffers of a picture and of its axes' tables, where they lie in memory)."""
    (height, width), (new_height, new_width) = image.shape[:2], resized
    (across, taps_across), (down, taps_down) = resample_table(width, new_width), resample_table(height, new_height)
    given = [uploaded(gpu, stream, array) for array in (image, across, down)]
    addresses = (buffer.address for buffer in given)
    return given, Place(*addresses, height, width, new_height, new_width, taps_across, taps_down)


def uploaded_candidates(gpu, stream, pictures, sizes):
    """Of `pictures`, boxes, scores and classes of each, of one count: their buffers and that of their sizes."""
    return [uploaded(gpu, stream, np.stack(part)) for part in (*zip(*pictures), sizes)]
