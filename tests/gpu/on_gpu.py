"""Puts arrays, images and candidates on a GPU, for the tests and the timing of the kernels."""

import numpy as np

from effedge.deploy.image.resample import resample_table
from effedge.deploy.runtime.tensorrt.detector_steps import PackedImage


def upload(gpu, stream, array):
    """Returns a buffer with a copy of an array."""
    buffer = gpu.buffer(array.nbytes)
    buffer.view(array.dtype, array.shape)[...] = array
    buffer.upload(array.nbytes, stream)
    return buffer


def upload_image(gpu, stream, image, resized):
    """Returns the buffers of an image and of its axes' tables, and a PackedImage with their addresses."""
    (height, width), (new_height, new_width) = image.shape[:2], resized
    (across, taps_across), (down, taps_down) = resample_table(width, new_width), resample_table(height, new_height)
    buffers = [upload(gpu, stream, array) for array in (image, across, down)]
    addresses = (buffer.address for buffer in buffers)
    return buffers, PackedImage(*addresses, height, width, new_height, new_width, taps_across, taps_down)


def upload_candidates(gpu, stream, images, sizes):
    """Returns the buffers of the images' boxes, scores and classes, equally many for each, and of their sizes."""
    return [upload(gpu, stream, np.stack(part)) for part in (*zip(*images), sizes)]
