"""No cpu_blocks.npz, however damaged, is more than one line of error, or makes the C++ read beyond its memory."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from effedge.deploy.native.cpu_blocks.blocks import checked_cpu_blocks
from effedge.deploy.native.cpu_blocks.description import EXPANSION, NONE, STEM, read_description, sample_image
from tests.deploy.cpu_blocks_cases import library_or_skip, random_description, with_expected
from tests.fuzz.strategies import FAST, SLOW, damaged, one_line_or, run_of

BLOCKS = [(STEM, 16, 3, 1, 4, 8, 0), (NONE, 0, 3, 1, 2, 16, 1), (EXPANSION, 24, 5, 2, 3, 16, 1)]
INTEGERS = st.sampled_from([-1, 0, 1, 2, 3, 5, 7, 16, 17, 24, 31, 32, 33, 34, 2**13, 2**14, 2**31 - 1, -(2**31)])
TYPES = ["int32", "int64", "uint8", "float32", "float16", "float64", "bool", "U5", "S3", ">i4"]


@pytest.fixture(scope="module")
def library():
    return library_or_skip()


@pytest.fixture(scope="module")
def intact():
    unchecked = random_description(np.random.default_rng(0), 34, 32, BLOCKS)
    return with_expected(unchecked, sample_image(unchecked.image_shape))


def as_bytes(arrays) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def use(path: Path, content: bytes, library) -> bool:
    """Reads a file and runs what could be read. Tells if it could be run."""
    path.write_bytes(content)
    description = one_line_or(lambda: read_description(path))
    if description is None:
        return False
    one_line_or(lambda: checked_cpu_blocks(library, description, 2))
    return True


@st.composite
def changed_arrays(draw, intact):
    """The description's arrays, with numbers of the layout, types, shapes or members changed."""
    arrays = {**intact._asdict(), "outputs": np.array(intact.outputs)}
    for _ in range(draw(st.integers(1, 3))):
        action = draw(st.integers(0, 9))
        if action < 6 and isinstance(arrays.get("layout"), np.ndarray) and arrays["layout"].ndim == 2:
            layout = arrays["layout"].copy()
            layout[draw(st.integers(0, len(layout) - 1)), draw(st.integers(0, layout.shape[1] - 1))] = draw(INTEGERS)
            arrays["layout"] = layout
            continue
        name = draw(st.sampled_from(sorted(arrays)))
        array = arrays[name]
        if action == 6 and (name == "outputs" or array.dtype.kind in "biuf"):
            arrays[name] = array.astype(draw(st.sampled_from(TYPES if name != "outputs" else ["U1", "S2", "U30"])))
        elif action == 7:
            arrays[name] = array[: draw(st.integers(0, 3))]
        elif action == 8:
            arrays[name] = draw(st.sampled_from([array[None], array.ravel(), np.concatenate([array, array])]))
        elif len(arrays) > 1:
            del arrays[name]
        if (
            not arrays.get("layout", np.empty((1, 1))).size
            or arrays.get("layout", np.empty((1, 1))).dtype.kind not in "if"
        ):
            break
    return arrays


def check_arrays(intact, library, folder: Path, cases: int) -> None:
    with np.errstate(all="ignore"):

        @run_of(cases)
        @given(changed_arrays(intact))
        def check(arrays):
            use(folder / "cpu_blocks.npz", as_bytes(arrays), library)

        check()


def check_bytes(intact, library, folder: Path, cases: int) -> None:
    original = as_bytes({**intact._asdict(), "outputs": np.array(intact.outputs)})
    assert use(folder / "cpu_blocks.npz", original, library)

    @run_of(cases)
    @given(damaged(original))
    @example(original[:26] + b"\x00\x20" + original[28:])  # a name of 8192 bytes, which zipfile's message has
    def check(content):
        use(folder / "cpu_blocks.npz", content, library)

    check()


def test_changed_arrays(intact, library, tmp_path):
    check_arrays(intact, library, tmp_path, FAST)


def test_damaged_files(intact, library, tmp_path):
    check_bytes(intact, library, tmp_path, FAST)


@pytest.mark.slow
def test_many_changed_arrays(intact, library, tmp_path):
    check_arrays(intact, library, tmp_path, SLOW)


@pytest.mark.slow
def test_many_damaged_files(intact, library, tmp_path):
    check_bytes(intact, library, tmp_path, SLOW)
