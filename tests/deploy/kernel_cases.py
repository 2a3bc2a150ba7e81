"""Images and candidates for the tests of the CUDA kernels, with Pillow's and NumPy's results."""

import numpy as np

from effedge.deploy.image.nms import choose_boxes
from effedge.deploy.image.preprocess import letterbox
from effedge.deploy.image.resample import FILTERS

FILL = (124, 1, 255)


def sizes(seed, count):
    """Yields sizes of images, of 1 to 4096 pixels a side, and of inputs, of 1 to 640; not too large together."""
    random = np.random.default_rng(seed)
    while count:
        height, width = np.exp(random.uniform(0, np.log(4096), 2)).astype(int).tolist()
        if height * width < 200_000:
            count -= 1
            yield (height, width), tuple(random.integers(1, 200, 2).tolist())
    yield (1, 4096), (512, 512)
    yield (4096, 1), (512, 512)
    yield (4096, 3000), (64, 64)
    yield (1080, 1920), (640, 640)


def letterbox_cases(seed, count):
    """Yields (image, input's size, Pillow's letterbox): noise, and now and then the extremes, because rounding must not
    leave 0 to 255."""
    random = np.random.default_rng(seed)
    for image_size, size in sizes(seed, count):
        image = random.integers(0, 256, (*image_size, 3), np.uint8)
        if random.random() < 0.2:
            image[:] = 255 * (image > 127)
        yield image, size, letterbox(image, size, FILL, FILTERS["bilinear"])


def reference(boxes, scores, classes, size, threshold, iou, most):
    """Selects candidates as deploy/runtime/detector.py does on the CPU."""
    width, height = size
    return choose_boxes(boxes, scores, classes, (height, width), threshold, iou, most)


def candidates(random, count):
    """Returns random candidates around a few objects or anywhere, partly outside the image, often with equal scores."""
    centres = random.uniform(0, 500, (8, 2))[random.integers(0, 8, count)] + random.normal(0, 8, (count, 2))
    if random.random() < 0.3:
        centres = random.uniform(-20, 540, (count, 2))
    sides = random.uniform(0, 60, (count, 2))
    boxes = np.concatenate([centres - sides / 2, centres + sides / 2], 1).astype(np.float32)
    scores = random.uniform(0, 1, count).astype(np.float32)
    if random.random() < 0.5:
        boxes, scores = np.round(boxes), np.round(scores, 1)
    return boxes, scores, random.integers(0, int(random.choice([1, 3, 90])), count).astype(np.int32)
