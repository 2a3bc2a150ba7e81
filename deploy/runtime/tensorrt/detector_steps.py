"""Runs a detector's letterbox and NMS on the GPU, before and after the engine: images in, the engine's candidates and
the indices of those that NMS keeps out. A stretched image is a letterbox that the image fills.

The results are those of deploy/image/preprocess.py's letterbox and of deploy/image/nms.py, to the last bit: so it was
for the kernels on an H200 (tests/gpu); around an engine they are untested there.
"""

from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence, Tuple

import numpy as np

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.contracts import LETTERBOX, STRETCH, InputSpec
from effedge.deploy.image.preprocess import BLACK, resized_size
from effedge.deploy.image.resample import resample_table
from effedge.deploy.native.cuda.kernels import compiled_kernels
from effedge.deploy.runtime.tensorrt.execution_slot import ExecutionSlot
from effedge.deploy.runtime.tensorrt.gpu import Gpu, KernelError, launch_blocks, launch_rows

INPUT = "image"
NMS_THREADS = 512
NMS_BYTES = 5  # of shared memory, for each candidate
BLACK_IMAGE = np.zeros((1, 1, 3), np.uint8)
# The types of an engine's tensors that the kernels support.
TYPES = {INPUT: np.uint8, "boxes": np.float32, "scores": np.float32, "classes": np.int32}


def supports(input_spec: InputSpec, types: Mapping[str, Any]) -> bool:
    """Checks that the kernels support an input, and tensors of these types."""
    fills_input = input_spec["resize"] == STRETCH and input_spec.get("crop", 1.0) == 1
    resizes = fills_input or input_spec["resize"] == LETTERBOX
    return resizes and input_spec["interpolation"] == "bilinear" and types == TYPES


class Kernels(NamedTuple):
    """The compiled kernels of letterbox.cu and nms.cu."""

    resize_horizontal: Any
    letterbox: Any
    nms: Any


def load_kernels(gpu: Gpu, path: Path) -> Kernels:
    """Loads the kernels for this GPU from the folder of the engine at `path`, after compiling them if need be: where
    the folder has none, or the driver refuses those that it has.

    Raises UserError, with the reason, if they cannot be compiled or loaded.
    """
    try:
        return kernels_in(gpu, path, anew=False)
    except KernelError:
        return kernels_in(gpu, path, anew=True)


def kernels_in(gpu: Gpu, path: Path, anew: bool) -> Kernels:
    """Loads the kernels that were kept, or that are compiled anew."""
    letterbox, nms = (compiled_kernels(name, gpu.architecture, path, anew) for name in ("letterbox", "nms"))
    return Kernels(
        gpu.kernel(letterbox, "resize_horizontal", "PPPiiii"),
        gpu.kernel(letterbox, "letterbox", "PPPiiiiiI"),
        gpu.kernel(nms, "nms", "PPPPPiiff"),
    )


class PackedImage(NamedTuple):
    """An image in the packed buffer: the positions of its pixels and of the tables of its axes, its size, and the size
    that it is resized to."""

    pixels: int
    across: int
    down: int
    height: int
    width: int
    new_height: int
    new_width: int
    taps_across: int
    taps_down: int


class LetterboxTarget(NamedTuple):
    """An image of the engine's input, [height,width,3]; `fill` is red + 256 green + 65536 blue."""

    address: int
    height: int
    width: int
    fill: int


class Selection(NamedTuple):
    """The parameters of `effedge.deploy.image.nms.nms`."""

    threshold: float
    iou: float
    max_detections: int


def enqueue_letterbox(
    kernels: Kernels, stream: Any, packed: int, image: PackedImage, horizontal: int, target: LetterboxTarget
) -> None:
    """Enqueues the letterbox of an image in the buffer at address `packed`. `horizontal`: the address of memory for the
    image resized along its rows, uint8 [height,new_width,3]."""
    launch_rows(
        kernels.resize_horizontal, stream, 3 * image.new_width, image.height,
        packed + image.pixels, horizontal, packed + image.across,
        image.height, image.width, image.new_width, image.taps_across,
    )  # fmt: skip
    launch_rows(
        kernels.letterbox, stream, 3 * target.width, target.height,
        horizontal, target.address, packed + image.down,
        image.new_height, image.new_width, image.taps_down, target.height, target.width, target.fill,
    )  # fmt: skip


def enqueue_nms(
    kernels: Kernels, stream: Any, addresses: Sequence[int], images: int, count: int, selection: Selection
) -> None:
    """Enqueues NMS over `count` candidates of each image. `addresses`: of the arrays boxes, scores, classes, sizes and
    kept of nms.cu."""
    launch_blocks(
        kernels.nms, stream, images, NMS_THREADS, NMS_BYTES * count,
        *addresses, count, selection.max_detections, selection.threshold, selection.iou,
    )  # fmt: skip


class DetectorSteps:
    """Letterbox, engine and NMS in one execution slot."""

    def __init__(self, slot: ExecutionSlot, kernels: Kernels, input_spec: InputSpec, selection: Selection) -> None:
        """Allocates the buffers. Raises UserError if memory is short."""
        self.slot, self.kernels, self.selection = slot, kernels, selection
        self.input_spec, (self.height, self.width) = input_spec, input_spec["size"]
        self.min_batch, _, max_batch = input_spec["batch"]
        red, green, blue = input_spec.get("fill", BLACK)
        self.fill = red | green << 8 | blue << 16
        self.image = slot.gpu.memory(max_batch * self.height * self.width * 3)
        self.kept = slot.gpu.result_buffer(4 * max_batch * selection.max_detections)
        self.packed, self.horizontal, self.horizontal_size = slot.gpu.buffer(0), slot.gpu.memory(0), 0
        self.shapes: Tuple[Tuple[int, int], ...] = ()

    def __call__(self, images: Sequence[np.ndarray]) -> Dict[str, np.ndarray]:
        """Detects in images, RGB uint8 [h,w,3] of any sizes, at most a batch.

        Returns the engine's outputs and "kept", int32 [N,max_detections], the indices of the candidates that NMS keeps,
        best first, then -1. Black images fill up the smallest batch.
        """
        images = [*images, *[BLACK_IMAGE] * (self.min_batch - len(images))]
        shapes = tuple((image.shape[0], image.shape[1]) for image in images)
        if shapes != self.shapes:
            self.pack_tables(shapes)
        for packed_image, image in zip(self.packed_images, images):
            self.packed.view(np.uint8, image.shape, packed_image.pixels)[...] = image
        inputs = {INPUT: ((len(images), self.height, self.width, 3), int(self.image))}
        key = (shapes, self.packed.address, int(self.horizontal))
        self.slot.enqueue_or_replay(key, inputs, self.enqueue)
        kept = self.kept.view(np.int32, (len(images), self.selection.max_detections)).copy()
        return {**self.slot.results(), "kept": kept}

    def pack_tables(self, shapes: Tuple[Tuple[int, int], ...]) -> None:
        """Lays out the one buffer that is copied to the GPU, and writes its first two parts: the resized sizes, the
        tables of the axes, the pixels."""
        self.shapes = ()  # until all is done: memory may be short
        resized = [resized_size(shape, self.input_spec) for shape in shapes]
        tables = [np.array([(width, height) for height, width in resized], np.int32).ravel()]
        end = tables[0].nbytes
        self.packed_images: List[PackedImage] = []
        for (height, width), (new_height, new_width) in zip(shapes, resized):
            across, taps_across = resample_table(width, new_width)
            down, taps_down = resample_table(height, new_height)
            sizes = (height, width, new_height, new_width, taps_across, taps_down)
            self.packed_images.append(PackedImage(0, end, end + across.nbytes, *sizes))
            tables += [across, down]
            end += across.nbytes + down.nbytes
        tables_end = end // 4
        for index, image in enumerate(self.packed_images):
            self.packed_images[index] = image._replace(pixels=end)
            end += 3 * image.height * image.width
        horizontal_size = max(3 * image.height * image.new_width for image in self.packed_images)
        if end > self.packed.host.size:
            self.packed = self.slot.gpu.buffer(end)
        if horizontal_size > self.horizontal_size:  # the stream resizes one image after the other: they share it
            self.horizontal, self.horizontal_size = self.slot.gpu.memory(horizontal_size), horizontal_size
        self.packed.view(np.int32, (tables_end,))[...] = np.concatenate(tables)
        self.packed_size, self.shapes = end, shapes

    def enqueue(self) -> None:
        """Enqueues the copies and all steps for the images in the packed buffer."""
        slot, stream, packed = self.slot, self.slot.stream, self.packed.address
        self.packed.upload(self.packed_size, stream)
        for index, image in enumerate(self.packed_images):
            address = int(self.image) + index * 3 * self.height * self.width
            target = LetterboxTarget(address, self.height, self.width, self.fill)
            enqueue_letterbox(self.kernels, stream, packed, image, int(self.horizontal), target)
        shapes = [tuple(slot.shape(name)) for name in ("boxes", "scores", "classes")]
        batch, count = len(self.packed_images), shapes[1][-1]
        if shapes != [(batch, count, 4), (batch, count), (batch, count)]:  # the kernel knows no bounds
            raise UserError(f"the engine gives boxes, scores and classes of {shapes}, expected [N,K,4], [N,K], [N,K]")
        slot.enqueue_engine()
        candidates = [slot.outputs[name].address for name in ("boxes", "scores", "classes")]
        addresses = [*candidates, packed, self.kept.address]
        enqueue_nms(self.kernels, stream, addresses, batch, count, self.selection)
        self.kept.download(4 * batch * self.selection.max_detections, stream)
