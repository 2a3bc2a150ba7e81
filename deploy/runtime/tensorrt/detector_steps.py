"""A detector's steps on the GPU, around the engine: pictures in, its candidates and those that NMS keeps out.

The same results as deploy/image/preprocess.py's letterbox and deploy/image/nms.py give, to the last bit: the kernels did on an
H200 (tests/gpu), around an engine they are untested there.
"""

from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence, Tuple

import numpy as np

from effedge.deploy.image.preprocess import letterboxed_size
from effedge.deploy.image.resample import resample_table
from effedge.deploy.native.cuda.kernels import compiled_kernels
from effedge.deploy.runtime.tensorrt.execution_slot import Lane
from effedge.deploy.runtime.tensorrt.gpu import Gpu, launch_blocks, launch_rows

INPUT = "image"
NMS_THREADS = 512
NMS_BYTES = 5  # of shared memory, for each candidate
BLACK = np.zeros((1, 1, 3), np.uint8)
TYPES = {INPUT: np.uint8, "boxes": np.float32, "scores": np.float32, "classes": np.int32}  # that the kernels know


def fits(description: Mapping[str, Any], types: Mapping[str, Any]) -> bool:
    """Whether the kernels are made for such an input, and for tensors of these types."""
    return (description["resize"], description["interpolation"]) == ("letterbox", "bilinear") and types == TYPES


class Kernels(NamedTuple):
    narrow: Any
    letterbox: Any
    nms: Any


def load_kernels(gpu: Gpu, path: Path) -> Kernels:
    """The kernels for this GPU, kept in the folder of the engine at `path`. UserError, a reason, if there are none."""
    letterbox, nms = (compiled_kernels(name, gpu.architecture, path) for name in ("letterbox", "nms"))
    return Kernels(
        gpu.kernel(letterbox, "narrow", "PPPiiii"),
        gpu.kernel(letterbox, "letterbox", "PPPiiiiiI"),
        gpu.kernel(nms, "nms", "PPPPPiiff"),
    )


class Place(NamedTuple):
    """A picture in the buffer: where its pixels and the tables of its axes begin, and its sizes there and resized."""

    pixels: int
    across: int
    down: int
    height: int
    width: int
    new_height: int
    new_width: int
    taps_across: int
    taps_down: int


def enqueue_letterbox(
    kernels: Kernels, stream: Any, given: int, place: Place, narrowed: int, image: int, size: Tuple[int, int], fill: int
) -> None:
    """The picture and tables at `place` in the buffer `given` -> `image`, [H,W,3] of `size`, by way of `narrowed`."""
    height, width = size
    launch_rows(
        kernels.narrow, stream, 3 * place.new_width, place.height,
        given + place.pixels, narrowed, given + place.across,
        place.height, place.width, place.new_width, place.taps_across,
    )  # fmt: skip
    launch_rows(
        kernels.letterbox, stream, 3 * width, height,
        narrowed, image, given + place.down,
        place.new_height, place.new_width, place.taps_down, height, width, fill,
    )  # fmt: skip


def enqueue_nms(
    kernels: Kernels, stream: Any, addresses: Sequence[int], pictures: int, count: int, most: int, threshold: float,
    iou: float,
) -> None:  # fmt: skip
    """`addresses`: of the boxes, scores, classes, sizes and indices of nms.cu."""
    launch_blocks(
        kernels.nms, stream, pictures, NMS_THREADS, NMS_BYTES * count, *addresses, count, most, threshold, iou
    )


class DetectorSteps:
    """The steps in one lane."""

    def __init__(
        self,
        lane: Lane,
        kernels: Kernels,
        description: Mapping[str, Any],
        threshold: float,
        iou: float,
        max_detections: int,
    ) -> None:
        """`description` is the spec's "input"; the rest as `effedge.deploy.image.nms.nms`."""
        self.lane, self.kernels = lane, kernels
        self.height, self.width = description["size"]
        self.smallest, _, largest = description["batch"]
        red, green, blue = description["fill"]
        self.fill = red | green << 8 | blue << 16
        self.threshold, self.iou, self.most = threshold, iou, max_detections
        self.image = lane.gpu.memory(largest * self.height * self.width * 3)
        self.kept = lane.gpu.result_buffer(4 * largest * max_detections)
        self.given, self.narrowed, self.narrowed_size = lane.gpu.buffer(0), lane.gpu.memory(0), 0
        self.shapes: Tuple[Tuple[int, int], ...] = ()

    def __call__(self, pictures: Sequence[np.ndarray]) -> Dict[str, np.ndarray]:
        """RGB uint8 [h,w,3] of any sizes, at most a batch -> the engine's outputs and "kept", int32 [N,max_detections],
        the candidates that stay, best first, then -1. Fewer than the smallest batch are filled up with black ones."""
        pictures = [*pictures, *[BLACK] * (self.smallest - len(pictures))]
        shapes = tuple((one.shape[0], one.shape[1]) for one in pictures)
        if shapes != self.shapes:
            self.lay_out(shapes)
        for place, picture in zip(self.places, pictures):
            self.given.view(np.uint8, picture.shape, place.pixels)[...] = picture
        image = ((len(pictures), self.height, self.width, 3), int(self.image))
        self.lane.replay((shapes, self.given.address, int(self.narrowed)), {INPUT: image}, self.enqueue)
        return {**self.lane.results(), "kept": self.kept.view(np.int32, (len(pictures), self.most)).copy()}

    def lay_out(self, shapes: Tuple[Tuple[int, int], ...]) -> None:
        """Say where everything lies in the one buffer that is copied: the resized sizes, the tables, the pixels."""
        self.shapes = ()  # until all is done: memory may be short
        resized = [letterboxed_size(shape, (self.height, self.width)) for shape in shapes]
        numbers = [np.array([(width, height) for height, width in resized], np.int32).ravel()]
        end = numbers[0].nbytes
        self.places: List[Place] = []
        for (height, width), (new_height, new_width) in zip(shapes, resized):
            across, taps_across = resample_table(width, new_width)
            down, taps_down = resample_table(height, new_height)
            sizes = (height, width, new_height, new_width, taps_across, taps_down)
            self.places.append(Place(0, end, end + across.nbytes, *sizes))
            numbers += [across, down]
            end += across.nbytes + down.nbytes
        numbers_end = end // 4
        for index, one in enumerate(self.places):
            self.places[index] = one._replace(pixels=end)
            end += 3 * one.height * one.width
        narrowed = max(3 * one.height * one.new_width for one in self.places)
        if end > self.given.host.size:
            self.given = self.lane.gpu.buffer(end)
        if narrowed > self.narrowed_size:  # the stream does the pictures one after the other: one is enough
            self.narrowed, self.narrowed_size = self.lane.gpu.memory(narrowed), narrowed
        self.given.view(np.int32, (numbers_end,))[...] = np.concatenate(numbers)
        self.size, self.shapes = end, shapes

    def enqueue(self) -> None:
        lane, stream, given = self.lane, self.lane.stream, self.given.address
        self.given.upload(self.size, stream)
        size, narrowed = (self.height, self.width), int(self.narrowed)
        for index, one in enumerate(self.places):
            image = int(self.image) + index * 3 * self.height * self.width
            enqueue_letterbox(self.kernels, stream, given, one, narrowed, image, size, self.fill)
        lane.enqueue_engine()
        count = lane.shape("scores")[1]
        candidates = [lane.outputs[name].address for name in ("boxes", "scores", "classes")]
        addresses = [*candidates, given, self.kept.address]
        enqueue_nms(self.kernels, stream, addresses, len(self.places), count, self.most, self.threshold, self.iou)
        self.kept.download(4 * len(self.places) * self.most, stream)
