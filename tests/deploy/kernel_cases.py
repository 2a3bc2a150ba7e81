"""Pictures and candidates to try the CUDA kernels on, on the host and on a GPU, and what NumPy makes of them."""

import numpy as np
from PIL import Image

from effedge.deploy.image.nms import choose_boxes
from effedge.deploy.image.preprocess import letterbox

FILL = (124, 1, 255)


def sizes(seed, count):
    """Pictures of 1 to 4096 pixels a side, of all shapes, and inputs of 1 to 640; not too large together."""
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
    """(picture, input's size, what Pillow makes of it): noise, and now and then the extremes, as rounding must not
    leave 0 to 255."""
    random = np.random.default_rng(seed)
    for picture, size in sizes(seed, count):
        image = random.integers(0, 256, (*picture, 3), np.uint8)
        if random.random() < 0.2:
            image[:] = 255 * (image > 127)
        yield image, size, letterbox(image, size, FILL, Image.Resampling.BILINEAR)


def reference(boxes, scores, classes, size, threshold, iou, most):
    """What deploy/runtime/detector.py does with the candidates on the CPU."""
    width, height = size
    return choose_boxes(boxes, scores, classes, (height, width), threshold, iou, most)


def candidates(random, count):
    """Around a few objects or anywhere, partly outside the picture, with ties in scores and corners as often as not."""
    centres = random.uniform(0, 500, (8, 2))[random.integers(0, 8, count)] + random.normal(0, 8, (count, 2))
    if random.random() < 0.3:
        centres = random.uniform(-20, 540, (count, 2))
    sides = random.uniform(0, 60, (count, 2))
    boxes = np.concatenate([centres - sides / 2, centres + sides / 2], 1).astype(np.float32)
    scores = random.uniform(0, 1, count).astype(np.float32)
    if random.random() < 0.5:
        boxes, scores = np.round(boxes), np.round(scores, 1)
    return boxes, scores, random.integers(0, int(random.choice([1, 3, 90])), count).astype(np.int32)
