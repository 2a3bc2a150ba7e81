"""Whether the first blocks of an EfficientNet are computed by deploy/native/cpu_blocks/blocks.py, how many, and what it needs for that.

The engine is raced with and without them on the CPU that builds it. Without a C++ compiler they stay with OpenVINO, and
where the engine is loaded on another CPU too: the engine's own file has the whole model.
"""

from functools import partial
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Set

import numpy as np

from effedge.deploy.common.cli import UserError
from effedge.deploy.native.cpu_blocks.blocks import (
    FIELDS,
    FORMAT,
    Description,
    Front,
    FrontLibrary,
    checked_front,
    front_library,
    sample_picture,
    samples,
)
from effedge.deploy.runtime.openvino_backend import named_outputs, without_front
from effedge.deploy.timing.interleaved_ratio import time_ratio
from effedge.deploy.timing.machine import cores, cpu
from effedge.engines.build_options import AUTO, OFF
from effedge.engines.openvino.cpu_blocks.find import Block, Found

FILE = "front.npz"
WORTH = 0.98  # how many times as long a run may take with it at most


class Chosen(NamedTuple):
    """A front that the engine gets: what front.npz will hold, the precisions of its products and vectors, the
    convolutions that it computes, by their precision, and how many times as long a run takes with it."""

    description: Description
    precisions: List[str]
    convolutions: Dict[str, List[str]]
    ratio: Optional[float]

    def manifest(self) -> Dict[str, Any]:
        """What the runtime needs to know."""
        ratio = None if self.ratio is None else round(self.ratio, 3)
        told = {"format": FORMAT, "file": FILE, "blocks": len(self.description.layout), "ratio": ratio}
        return {**told, "precisions": self.precisions, "cpu": cpu()}


def choose_front(
    ov: Any, core: Any, model: Any, found: Optional[Found], config: Dict[str, str], asked: str
) -> Optional[Chosen]:
    """The fastest front of a model, if it is faster than none; with a number asked for, that of so many blocks.

    Those that end where the maps get smaller are raced, the longest first, as long as a shorter one is faster. Raises
    UserError if there is no front of the number of blocks that was asked for, or it is not right.
    """
    if asked == OFF:
        return None
    if asked != AUTO:
        check_asked(int(asked), found)
    library = None if found is None else front_library()
    if found is None or library is None:
        return None
    pictures = batch_for(model)
    if asked != AUTO:
        description = describe(ov, core, model, found, int(asked))
        if description is None:
            raise UserError(f"--front {asked}: the rest of the model reads more than these blocks give; take {AUTO}")
        if checked_front(library, description, cores()) is None:
            raise UserError(f"--front {asked}: it gives something else here than OpenVINO; take {AUTO}")
        return chosen(library, description, found, None)
    latency = {"PERFORMANCE_HINT": "LATENCY", **config}
    whole = core.compile_model(model, "CPU", latency)
    run_whole = partial(whole.create_infer_request().infer, [pictures], share_inputs=True)
    best, least = None, WORTH
    for count in reversed(stage_ends(found.blocks)):
        description = describe(ov, core, model, found, count)
        front = description and checked_front(library, description, cores())
        if description is None or front is None:
            continue
        rest = core.compile_model(without_front(model.clone(), description.shapes), "CPU", latency)
        ratio = time_ratio(partial(run_both, front, rest.create_infer_request(), pictures), run_whole)
        if best is not None and ratio >= least:
            break
        if ratio <= least:
            best, least = chosen(library, description, found, ratio), ratio
    return best


def check_asked(count: int, found: Optional[Found]) -> None:
    """UserError if there is no front of so many blocks, or no library that computes it."""
    if found is None:
        raise UserError(
            f"--front {count}: the model does not begin with an EfficientNet's blocks; give {AUTO} or {OFF}"
        )
    if not 1 <= count <= len(found.blocks):
        raise UserError(f"--front {count}: expected 1 to {len(found.blocks)}, the blocks that the model begins with")
    if front_library() is None:
        raise UserError(
            f"--front {count}: its library cannot be made here; it takes g++ or clang++ on PATH, with C++17, a cache "
            f"that can be written, and a system that lets processes use AMX; give {AUTO} or {OFF}"
        )


def run_both(front: Front, rest: Any, pictures: np.ndarray) -> None:
    rest.infer(front(pictures), share_inputs=True)


def stage_ends(blocks: Sequence[Block]) -> List[int]:
    """How many blocks there are up to the end of each size of map."""
    sizes = [block.layout["out_width"] for block in blocks]
    return [count for count in range(1, len(blocks) + 1) if count == len(blocks) or sizes[count] != sizes[count - 1]]


def describe(ov: Any, core: Any, model: Any, found: Found, count: int) -> Optional[Description]:
    """The front of the first `count` blocks; it is expected to give what OpenVINO gives in float32. None if the rest of
    the model reads more than outputs of blocks."""
    blocks = found.blocks[:count]
    outputs = read_by_the_rest(model, [block.output for block in blocks])
    if outputs is None:
        return None
    rows = [{**block.layout, "feature": int(block.output in outputs)} for block in blocks]
    layout = np.array([[row[field] for field in FIELDS] for row in rows], np.int32)
    weights = np.concatenate([found.means, *(block.weights for block in blocks)]).astype(np.float32)
    description = Description(layout, weights, outputs, np.empty(0, np.float32))
    return description._replace(expected=samples(by_openvino(ov, core, found.model, description)))


def read_by_the_rest(model: Any, names: Sequence[str]) -> Optional[List[str]]:
    """Those of the named operations that are read on the way to the results from where nothing named lies between; None
    if one comes to an input too."""
    found: Set[str] = set()
    seen: Set[str] = set()
    waiting = list(model.get_results())
    while waiting:
        node = waiting.pop()
        if node.get_name() in seen:
            continue
        seen.add(node.get_name())
        if node.get_friendly_name() in names:
            found.add(node.get_friendly_name())
        elif node.get_type_name() == "Parameter":
            return None
        else:
            waiting += [value.get_node() for value in node.input_values()]
    return [name for name in names if name in found]


def batch_for(model: Any) -> np.ndarray:
    """The sample picture as often as one run takes it."""
    batch, height, width, colors = model.inputs[0].get_partial_shape()
    pictures = sample_picture((height.get_length(), width.get_length(), colors.get_length()))[None]
    return np.repeat(pictures, 1 if batch.is_dynamic else batch.get_length(), 0)


def by_openvino(ov: Any, core: Any, model: Any, description: Description) -> Dict[str, np.ndarray]:
    """The front's outputs [N,h,w,channels] for the sample picture, as OpenVINO computes them in float32."""
    ports = named_outputs(model, description.outputs)
    compiled = core.compile_model(ov.Model(ports, model.get_parameters()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    results = compiled(batch_for(model))
    return {name: results[index][:1].transpose(0, 2, 3, 1) for index, name in enumerate(description.outputs)}


def chosen(library: FrontLibrary, description: Description, found: Found, ratio: Optional[float]) -> Chosen:
    """The description's front, with the names of its convolutions by the precision of the library's arithmetic."""
    names: Dict[str, List[str]] = {}
    for block in found.blocks[: len(description.layout)]:
        names.setdefault(library.product_precision, []).extend(block.products)
        names.setdefault(library.vector_precision, []).extend(block.depthwise)
    return Chosen(description, library.precisions, names, ratio)


def save_front(folder: Path, front: Chosen) -> None:
    """Write front.npz."""
    fields = front.description._asdict()
    np.savez(folder / FILE, **{**fields, "outputs": np.array(front.description.outputs)})
