"""Chooses how many of an EfficientNet's first blocks the engine computes in C++ (deploy/native/cpu_blocks/blocks.py).

The engine is timed with and without them on the CPU that builds it. Without a C++ compiler OpenVINO computes these
blocks, as it does where the engine is loaded on another CPU: the engine's own file holds the complete model.
"""

from functools import partial
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Set

import numpy as np

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.contracts import CpuBlocksEntry
from effedge.deploy.native.cpu_blocks.blocks import (
    CpuBlocks,
    CpuBlocksLibrary,
    checked_cpu_blocks,
    load_cpu_blocks_library,
)
from effedge.deploy.native.cpu_blocks.description import (
    FIELDS,
    FORMAT,
    BlocksDescription,
    sample_image,
    sample_outputs,
)
from effedge.deploy.runtime.openvino_backend import named_outputs, remove_first_blocks
from effedge.deploy.timing.comparison import time_ratio
from effedge.deploy.timing.machine import cores, cpu
from effedge.engines.build_options import AUTO, OFF
from effedge.engines.openvino.cpu_blocks.find import Block, FirstBlocks
from effedge.engines.openvino.race import compile_for_latency

FILE = "cpu_blocks.npz"
WORTHWHILE_RATIO = 0.98  # the highest ratio of latencies at which the blocks are taken


class ChosenBlocks(NamedTuple):
    """The blocks that an engine computes in C++.

    Attributes:
        description: the content of cpu_blocks.npz.
        precisions: of the library's matrix products and of its vector arithmetic.
        convolutions: the names of the convolutions in the blocks, by their precision.
        ratio: a run's latency with the blocks over that without; None: not measured.
    """

    description: BlocksDescription
    precisions: List[str]
    convolutions: Dict[str, List[str]]
    ratio: Optional[float]

    def manifest_entry(self) -> CpuBlocksEntry:
        """Returns the facts that the runtime needs, for the manifest's backend["cpu_blocks"]."""
        return {
            "format": FORMAT,
            "file": FILE,
            "blocks": len(self.description.layout),
            "ratio": None if self.ratio is None else round(self.ratio, 3),
            "precisions": self.precisions,
            "cpu": cpu(),
        }


def choose_cpu_blocks(
    ov: Any, core: Any, model: Any, first_blocks: Optional[FirstBlocks], config: Dict[str, str], requested: str
) -> Optional[ChosenBlocks]:
    """Chooses the number of blocks with the lowest latency, or the requested number; None: no blocks.

    For "auto", the numbers of blocks behind which the maps get smaller are timed, the largest first, as long as a
    smaller number is faster. Raises UserError as `requested_blocks`.
    """
    if requested == OFF:
        return None
    if requested != AUTO:
        return requested_blocks(ov, core, model, first_blocks, int(requested))
    library = None if first_blocks is None else load_cpu_blocks_library()
    if first_blocks is None or library is None:
        return None
    images = sample_batch(model)
    complete = compile_for_latency(core, model, config)
    run_complete = partial(complete.create_infer_request().infer, [images], share_inputs=True)
    best, lowest = None, WORTHWHILE_RATIO
    for count in reversed(stage_ends(first_blocks.blocks)):
        description = describe(ov, core, model, first_blocks, count)
        blocks = description and checked_cpu_blocks(library, description, cores())
        if description is None or blocks is None:
            continue
        rest = compile_for_latency(core, remove_first_blocks(model.clone(), description.output_shapes), config)
        ratio = time_ratio(partial(run_with_blocks, blocks, rest.create_infer_request(), images), run_complete)
        if best is not None and ratio >= lowest:
            break
        if ratio <= lowest:
            best, lowest = chosen_blocks(library, description, first_blocks, ratio), ratio
    return best


def requested_blocks(ov: Any, core: Any, model: Any, first_blocks: Optional[FirstBlocks], count: int) -> ChosenBlocks:
    """Returns the first `count` blocks.

    Raises UserError if the model does not begin with so many blocks, or reads more than their outputs; if no library
    can be compiled that computes them; or if the library's outputs are not OpenVINO's.
    """
    option = f"--cpu-blocks {count}"
    if first_blocks is None:
        raise UserError(f"{option}: the model does not begin with an EfficientNet's blocks; give {AUTO} or {OFF}")
    if not 1 <= count <= len(first_blocks.blocks):
        raise UserError(f"{option}: expected 1 to {len(first_blocks.blocks)}, the blocks that the model begins with")
    library = load_cpu_blocks_library()
    if library is None:
        raise UserError(
            f"{option}: its library cannot be made here; it takes g++ or clang++ on PATH, with C++17, a cache "
            f"that can be written, and a system that lets processes use AMX; give {AUTO} or {OFF}"
        )
    description = describe(ov, core, model, first_blocks, count)
    if description is None:
        raise UserError(f"{option}: the rest of the model reads more than these blocks give; take {AUTO}")
    if checked_cpu_blocks(library, description, cores()) is None:
        raise UserError(f"{option}: it gives something else here than OpenVINO; take {AUTO}")
    return chosen_blocks(library, description, first_blocks, None)


def run_with_blocks(blocks: CpuBlocks, rest: Any, images: np.ndarray) -> None:
    """Runs the blocks in C++, and the rest of the model on their outputs."""
    rest.infer(blocks(images), share_inputs=True)


def stage_ends(blocks: Sequence[Block]) -> List[int]:
    """Lists the numbers of blocks behind which the maps get smaller, and the number of all blocks."""
    widths = [block.layout["out_width"] for block in blocks]
    return [count for count in range(1, len(blocks) + 1) if count == len(blocks) or widths[count] != widths[count - 1]]


def describe(ov: Any, core: Any, model: Any, first_blocks: FirstBlocks, count: int) -> Optional[BlocksDescription]:
    """Describes the first `count` blocks for the library, with the outputs that OpenVINO computes in float32 as the
    expected ones. None if the rest of the model reads more than outputs of blocks."""
    blocks = first_blocks.blocks[:count]
    outputs = outputs_read_by_rest(model, [block.output for block in blocks])
    if outputs is None:
        return None
    rows = [{**block.layout, "feature": int(block.output in outputs)} for block in blocks]
    layout = np.array([[row[field] for field in FIELDS] for row in rows], np.int32)
    weights = np.concatenate([first_blocks.means, *(block.weights for block in blocks)]).astype(np.float32)
    description = BlocksDescription(layout, weights, outputs, np.empty(0, np.float32))
    return description._replace(expected=sample_outputs(outputs_by_openvino(ov, core, first_blocks.model, description)))


def outputs_read_by_rest(model: Any, names: Sequence[str]) -> Optional[List[str]]:
    """Lists those of the named operations that the rest of the model reads: those on a way to the results with no other
    named operation behind them. None if another such way begins at an input."""
    outputs: Set[str] = set()
    visited: Set[str] = set()
    waiting = list(model.get_results())
    while waiting:
        node = waiting.pop()
        if node.get_name() in visited:
            continue
        visited.add(node.get_name())
        if node.get_friendly_name() in names:
            outputs.add(node.get_friendly_name())
        elif node.get_type_name() == "Parameter":
            return None
        else:
            waiting += [value.get_node() for value in node.input_values()]
    return [name for name in names if name in outputs]


def sample_batch(model: Any) -> np.ndarray:
    """Repeats the sample image as often as a batch of the model needs; once for a dynamic batch."""
    batch, height, width, colors = model.inputs[0].get_partial_shape()
    image = sample_image((height.get_length(), width.get_length(), colors.get_length()))
    return np.repeat(image[None], 1 if batch.is_dynamic else batch.get_length(), 0)


def outputs_by_openvino(ov: Any, core: Any, model: Any, description: BlocksDescription) -> Dict[str, np.ndarray]:
    """Computes the blocks' outputs [N,h,w,channels] for the sample image by OpenVINO, in float32."""
    ports = named_outputs(model, description.outputs)
    compiled = core.compile_model(ov.Model(ports, model.get_parameters()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    results = compiled(sample_batch(model))
    return {name: results[index][:1].transpose(0, 2, 3, 1) for index, name in enumerate(description.outputs)}


def chosen_blocks(
    library: CpuBlocksLibrary, description: BlocksDescription, first_blocks: FirstBlocks, ratio: Optional[float]
) -> ChosenBlocks:
    """Adds the names of the described blocks' convolutions, by the precision of the library's arithmetic."""
    names: Dict[str, List[str]] = {}
    for block in first_blocks.blocks[: len(description.layout)]:
        names.setdefault(library.product_precision, []).extend(block.products)
        names.setdefault(library.vector_precision, []).extend(block.depthwise)
    return ChosenBlocks(description, library.precisions, names, ratio)


def save_cpu_blocks(folder: Path, blocks: ChosenBlocks) -> None:
    """Writes cpu_blocks.npz."""
    fields = blocks.description._asdict()
    np.savez(folder / FILE, **{**fields, "outputs": np.array(blocks.description.outputs)})
