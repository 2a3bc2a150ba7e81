"""Runs models with ONNX Runtime on the CPU, several runs side by side.

The threads of one run wait for each other at each of its operators, of which a small network has hundreds, and no
thread helps with what Python does around the run. So a run has one thread where memory allows it, and as many runs as
there are cores go side by side, each with the work on its outputs. Where the tensors of a run are large, fewer runs go
side by side, with more threads each.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnx_ir as ir
import onnxruntime
from google.protobuf.message import EncodeError
from onnx_ir.passes import common

from effedge.deploy.common.cli import UserError
from effedge.deploy.runtime.onnxruntime_backend import LOG_ERRORS, make_session
from effedge.deploy.timing.machine import cores
from effedge.engines.comparison.reference import open_session

COMPARABLE = {
    ir.DataType[name]
    for name in (
        *("FLOAT", "FLOAT16", "DOUBLE", "BOOL", "STRING"),
        *(f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)),
    )
}
BYTES_AT_ONCE = 1 << 28  # 256 MiB: of the tensors of all runs that go side by side
Arrays = dict[str, np.ndarray]  # by the name of the tensor
Item = TypeVar("Item")
Result = TypeVar("Result")


def session(model: ir.Model, outputs: Sequence[str] = ()) -> onnxruntime.InferenceSession:
    """Makes a session of the model, with the tensors named in `outputs`, if any, as its outputs."""
    if outputs:
        model = model.clone()
        values = {value.name: value for node in model.graph for value in node.outputs}
        model.graph.outputs[:] = [values[name] for name in outputs]
        for value in model.graph.outputs:
            if value.type is None:
                value.type = ir.TensorType(ir.DataType.FLOAT)
        common.RemoveUnusedNodesPass()(model)
    is_fp8 = any(value.dtype == ir.DataType.FLOAT8E4M3FN for node in model.graph for value in node.outputs)
    return session_of(to_bytes(model), is_fp8, threads_of_run(model))


def to_bytes(model: ir.Model) -> bytes:
    """Returns the bytes of a model's ONNX file. Raises UserError beyond protobuf's 2 GiB."""
    try:
        return ir.to_proto(model).SerializeToString()
    except (EncodeError, ValueError) as error:
        raise UserError(f"a model is at most 2 GiB here ({error}): give a smaller one") from error


def check_runnable(model: ir.Model, path: Path) -> None:
    """Raises a UserError for a model that ONNX Runtime does not run, such as one with a plugin of TensorRT, or that has
    an output without numbers or texts, such as a sequence."""
    for value in model.graph.outputs:
        if value.type is not None and (not isinstance(value.type, ir.TensorType) or value.dtype not in COMPARABLE):
            raise UserError(
                f"'{path}' has the output '{value.name}' of type {value.type}, which cannot be compared: expected a "
                "tensor of numbers; export it without that output (onnx.utils.extract_model cuts it off)"
            )
    data = to_bytes(model)
    try:
        open_session(data)
    except Exception as error:  # ONNX Runtime's errors have no common class but Exception
        raise UserError(
            f"ONNX Runtime cannot run '{path}', and calibration runs the float model: {' '.join(str(error).split())}"
        ) from error


def session_of(data: bytes, fp8: bool = False, threads: int = 0) -> onnxruntime.InferenceSession:
    """Makes a session of the bytes of an ONNX file, which need never lie on the disk.

    Args:
        fp8: the model has Q/DQ pairs of FP8.
        threads: of a run; 0 for one on each core.
    """
    _share_arena()

    def new_options() -> onnxruntime.SessionOptions:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or cores()
        options.add_session_config_entry("session.use_env_allocators", "1")
        options.log_severity_level = LOG_ERRORS
        return options

    return make_session(data, new_options, fp8)


class Tensors:
    """Computes tensors of a model by their names: node outputs, and inputs as they are.

    Attributes:
        threads: of a run.
    """

    def __init__(self, model: ir.Model, names: Iterable[str]) -> None:
        inputs = {value.name for value in model.graph.inputs}
        self.computed = [name for name in dict.fromkeys(names) if name not in inputs]
        self.running = session(model, self.computed)
        self.threads = threads_in(self.running)

    def __call__(self, feeds: Arrays) -> Arrays:
        """Returns the tensors beside the feeds."""
        if not self.computed:
            return feeds
        return {**feeds, **dict(zip(self.computed, compute(self.running, self.computed, feeds), strict=True))}


def compute(
    running: onnxruntime.InferenceSession, outputs: Sequence[str], feeds: Mapping[str, np.ndarray]
) -> list[np.ndarray]:
    """Computes the outputs by these names, and returns them as they lie in ONNX Runtime's memory.

    `InferenceSession.run` copies them. Of all activations of D0 the copy takes half as long as the run.
    """
    arrays = {name: np.asarray(array, order="C") for name, array in feeds.items()}  # they must outlive the run
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in arrays.items()}
    return [value.numpy() for value in running.run_with_ort_values(outputs, values)]


@functools.cache
def _share_arena() -> None:
    """Registers one memory arena for all sessions. With an arena of its own each session would keep the memory of its
    largest run (eight sessions of D0: 1.2 GiB more)."""
    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    as_requested = {
        "max_mem": 0,
        "arena_extend_strategy": 1,
        "initial_chunk_size_bytes": -1,
        "max_dead_bytes_per_chunk": -1,
    }
    onnxruntime.create_and_register_allocator(memory, onnxruntime.OrtArenaCfg(as_requested))


def threads_of_run(model: ir.Model) -> int:
    """Returns the number of threads of a run of the model: one, if BYTES_AT_ONCE hold a run on each core."""
    sizes = [size for value in model.graph.inputs for size in (value.shape or (None,))[1:]]
    if not all(isinstance(size, int) for size in sizes):
        return cores()  # nobody knows how large the tensors are
    side_by_side = min(cores(), max(1, BYTES_AT_ONCE // max(1, live_bytes(model.graph))))
    return cores() // side_by_side


def threads_in(running: onnxruntime.InferenceSession) -> int:
    """Returns the number of threads of a run of a session from here."""
    return int(running.get_session_options().intra_op_num_threads)


def live_bytes(graph: ir.Graph) -> int:
    """Returns the most bytes of tensors that are in use at one time of a run, as far as shapes are known."""
    nodes = list(graph)
    last = {value: position for position, node in enumerate(nodes) for value in node.inputs if value is not None}
    last.update((value, len(nodes)) for value in graph.outputs)
    most = live = sum(tensor_bytes(value) for value in graph.inputs)
    for position, node in enumerate(nodes):
        live += sum(tensor_bytes(value) for value in node.outputs)
        most = max(most, live)
        done = dict.fromkeys(value for value in (*node.inputs, *node.outputs) if value is not None)
        live -= sum(
            tensor_bytes(value)
            for value in done
            if last.get(value, position) == position and not value.is_initializer()
        )
    return most


def tensor_bytes(value: ir.Value) -> int:
    """Returns the bytes of a tensor: a size that is not known counts as 1, a type that is not known and a text as 4
    bytes, and a shape that is not known as none."""
    if value.shape is None:
        return 0
    count = math.prod(size if isinstance(size, int) else 1 for size in value.shape)
    return count * (4 if value.dtype in (None, ir.DataType.STRING) else max(1, int(value.dtype.itemsize)))


def parts_that_fit(items: Iterable[Item], bytes_of: Callable[[Item], int], room: int) -> list[list[Item]]:
    """Divides items, in their order, into parts of at most `room` bytes; a larger item is a part by itself.

    >>> parts_that_fit([3, 4, 9, 1], lambda size: size, room=8)
    [[3, 4], [9], [1]]
    """
    parts: list[list[Item]] = []
    left = 0
    for item in items:
        size = bytes_of(item)
        if size > left or not parts:
            parts.append([])
            left = room
        parts[-1].append(item)
        left -= size
    return parts


def side_by_side(function: Callable[[Item], Result], items: Iterable[Item], threads: int = 1) -> Iterator[Result]:
    """Computes function(item) of each item, in their order: one on each core, or fewer where one takes several.

    Args:
        function: is called in threads. It may not call `side_by_side` itself, which would wait for these threads.
        items: are read only as far as they are needed: a few more than the results that are asked for.
        threads: that `function` runs, as `threads_in` the session that it runs.
    """
    workers = max(1, cores() // threads)
    if workers == 1:
        yield from map(function, items)
        return
    waiting: deque[Future[Result]] = deque()
    left = iter(items)
    try:
        while True:
            for item in itertools.islice(left, workers - len(waiting)):
                waiting.append(_pool().submit(function, item))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def call_side_by_side(function: Callable[..., object], *arguments: Iterable[object]) -> None:
    """Calls `function` with one item of each of the `arguments`, as `side_by_side`, for what it changes."""
    for _ in side_by_side(lambda items: function(*items), zip(*arguments, strict=True)):
        pass


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores(), thread_name_prefix="run")
