"""Fixtures of the tests of pipeline/; models are exported and simplified once for all of them."""

import functools
from typing import NamedTuple

import pytest


class Prepared(NamedTuple):
    """A model with random weights for `classes`: its module, its export and its simplified export."""

    name: str
    size: int
    classes: int
    module: object
    exported: object  # onnx.ModelProto
    simplified: object


@functools.cache
def prepare(name, size=None, batch=(1, 1, 1), classes=7):
    import onnx_ir as ir

    from effedge.pipeline.export.simplify import simplify
    from effedge.pipeline.export.torch_to_onnx import export_model
    from effedge.pipeline.models.create import create_model
    from effedge.pipeline.models.tables import Size, input_size
    from effedge.pipeline.weights.load import load_weights

    exported = ir.to_proto(export_model(name, "random", size=size and Size(size, size), batch=batch, classes=classes))
    module = create_model(name, classes).eval()
    module.load_state_dict(load_weights(name, "random", classes=classes).state)
    return Prepared(name, size or input_size(name).height, classes, module, exported, simplify(exported))


@pytest.fixture(scope="session")
def prepared():
    """A function of (name, size, batch) that returns the Prepared model, exported (10 to 20 s) once a session."""
    yield prepare
    prepare.cache_clear()


@pytest.fixture
def one_thread():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folders(tmp_path):
    """Two images of each colour, with so much noise that every crop differs."""
    import numpy as np
    from PIL import Image

    from tests.pipeline.small_training import COLOURS

    random = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (tmp_path / "classes" / name).mkdir(parents=True)
        for index in range(2):
            noise = random.integers(-20, 20, (50, 60, 3))
            Image.fromarray(np.clip(noise + colour, 0, 255).astype(np.uint8)).save(
                tmp_path / "classes" / name / f"{index}.png"
            )
    return tmp_path / "classes"


@pytest.fixture
def coco(tmp_path):
    from tests.pipeline.small_training import write_coco

    return write_coco(tmp_path, 6)
