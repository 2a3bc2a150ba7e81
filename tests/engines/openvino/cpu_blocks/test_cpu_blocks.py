"""Tests the first blocks in C++: found in a graph, as many as are fastest, and the engine's outputs with them."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest

import effedge.deploy.native.cpu_blocks.blocks as blocks_module
from effedge import Runner
from effedge.calibration.graph import onnx_file
from effedge.calibration.ranges.samples import Samples
from effedge.calibration.weights.align_images import align_images
from effedge.deploy.common.cli import UserError
from effedge.deploy.native.cpu_blocks.description import EXPANSION, FIELDS, NONE, STEM, relative_error
from effedge.deploy.runtime import openvino_backend
from effedge.engines.build import build_engine
from effedge.engines.build_options import BuildOptions
from effedge.engines.openvino.cpu_blocks import choose
from effedge.engines.openvino.cpu_blocks.find import find_blocks
from effedge.engines.openvino.fold_dequantize import fold_dequantize
from effedge.engines.targets import TARGETS
from tests.deploy.cpu_blocks_cases import library_or_skip, random_description, reference
from tests.engines.cpu_blocks_graph import head, network
from tests.engines.openvino.builds import CAPABILITIES

ov = pytest.importorskip("openvino")
BLOCKS = [
    (STEM, 32, 3, 1, 8, 16, 0),
    (EXPANSION, 96, 3, 2, 4, 24, 0),
    (EXPANSION, 144, 3, 1, 6, 24, 1),
    (EXPANSION, 144, 5, 2, 6, 40, 0),
    (NONE, 0, 5, 1, 10, 40, 1),
]
HEIGHT, WIDTH = 96, 128
ENDS = [1, 3, 5]
SIXTEEN_BITS = {"BF16", "FP16"}


@pytest.fixture(scope="module")
def library():
    return library_or_skip()


@pytest.fixture(scope="module")
def description():
    return random_description(np.random.default_rng(1), HEIGHT, WIDTH, BLOCKS)


def model_of(path):
    """Reads a model and changes it as the builder does before it looks for blocks."""
    model = ov.Core().read_model(path)
    fold_dequantize(ov, model)
    return model


def built(path, folder, cpu_blocks, precision="fp16"):
    if precision == "fp16" and not SIXTEEN_BITS.intersection(CAPABILITIES):
        pytest.skip("OpenVINO has no 16 bits on this CPU")
    folder.mkdir()
    build_options = BuildOptions(swish="exact", cpu_blocks=cpu_blocks)
    build_engine(path, folder, precision=precision, target=TARGETS["cpu"], build_options=build_options)
    return json.loads((folder / "manifest.json").read_text())


@pytest.mark.parametrize("quantized", [False, True])
def test_the_blocks_are_found_as_they_were_put_in(tmp_path, description, quantized):
    found = find_blocks(model_of(network(tmp_path / "net.onnx", description, quantized=quantized)))
    assert choose.stage_ends(found.blocks) == ENDS
    rows = [[block.layout[field] for field in FIELDS[:-1]] for block in found.blocks]
    assert rows == description.layout[:, :-1].tolist()
    weights = np.concatenate([found.means, *(block.weights for block in found.blocks)])
    assert weights.shape == description.weights.shape
    assert relative_error(weights, description.weights) < (0.01 if quantized else 1e-7)
    names = {name.split("/")[0] for block in found.blocks for name in block.products + block.depthwise}
    assert names == {
        f"block{index}_{part}"
        for index, block in enumerate(BLOCKS)
        for part in ("dw", "reduce", "excite", "project", *{STEM: ["stem"], EXPANSION: ["expand"], NONE: []}[block[0]])
    }


def test_the_stem_is_found_behind_what_aligns_its_image(tmp_path, description):
    plain = network(tmp_path / "net.onnx", description)
    model = onnx_file.load(plain)
    image = np.zeros((1, HEIGHT, WIDTH, 3), np.uint8)
    assert align_images(model, Samples(["black"], lambda index: {"image": image}))
    assert {"Pad", "Add"} <= {node.op_type for node in model.graph}
    onnx_file.save(model, tmp_path / "aligned.onnx")
    first, second = (find_blocks(model_of(path)) for path in (plain, tmp_path / "aligned.onnx"))
    np.testing.assert_array_equal(second.means, first.means)
    assert [block.layout for block in second.blocks] == [block.layout for block in first.blocks]
    for before, after in zip(first.blocks, second.blocks):
        assert relative_error(after.weights, before.weights) < 1e-6


def test_convolutions_need_no_bias(tmp_path, description):
    path = network(tmp_path / "net.onnx", description, biases=False)
    found = find_blocks(model_of(path))
    assert choose.stage_ends(found.blocks) == ENDS
    assert not found.blocks[0].weights[-16:].any() and found.blocks[0].weights[-32:-16].all()


def test_gates_need_no_factor(tmp_path, description):
    found = find_blocks(model_of(network(tmp_path / "net.onnx", description, gates="plain")))
    channels, squeezed = 32, 8
    behind = channels * 16 + 16  # projection and its bias
    np.testing.assert_array_equal(found.blocks[0].weights[-behind - channels : -behind], np.ones(channels))
    assert len(found.blocks) == len(BLOCKS) and found.blocks[0].layout["squeezed"] == squeezed


def test_outputs_are_what_the_rest_reads(tmp_path, description):
    core, model = ov.Core(), model_of(network(tmp_path / "net.onnx", description))
    found = find_blocks(model)
    for count, features in ((1, [0]), (2, [1]), (3, [2]), (4, [2, 3]), (5, [2, 4])):
        described = choose.describe(ov, core, model, found, count)
        assert np.flatnonzero(described.column("feature")).tolist() == features
        assert described.outputs == [found.blocks[index].output for index in features]
        if count == len(BLOCKS):
            np.testing.assert_array_equal(described.layout, description.layout)


def also_the_stem(graph, value, outputs):
    """Adds an output that is computed from the stem, within the first block."""
    weights = np.random.default_rng(0).normal(size=(4, 4, 32, 8))
    name = graph.convolution("block0_stem_swish_out", weights, np.zeros(8), "past", True, strides=[4, 4])
    return [*outputs, (name, {"out_height": HEIGHT // 8, "out_width": WIDTH // 8})]


def test_a_model_that_reads_from_within_a_block_has_no_cpu_blocks(tmp_path, library, description):
    manifest = built(network(tmp_path / "net.onnx", description, tail=also_the_stem), tmp_path / "engine", "auto")
    assert "cpu_blocks" not in manifest["backend"]
    with pytest.raises(UserError, match="--cpu-blocks 5: the rest of the model reads more"):
        built(tmp_path / "net.onnx", tmp_path / "five", "5")


def attribute(node, **attributes):
    del node.attribute[:]
    node.attribute.extend(onnx.helper.make_attribute(name, value) for name, value in attributes.items())


def spoil(path, change):
    model = onnx.load(path)
    nodes = {node.name: node for node in model.graph.node}
    constants = {one.name: one for one in model.graph.initializer}
    change(nodes, constants)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def replace_constant(constants, name, value):
    constants[name].CopyFrom(onnx.numpy_helper.from_array(np.asarray(value), name))


CHANGES = {  # what is changed -> how many blocks are left
    "padding behind a 1x1": (lambda nodes, constants: attribute(nodes["block1_project"], pads=[0, 0, 1, 1]), 1),
    "a 1x1 with a stride": (lambda nodes, constants: attribute(nodes["block1_expand"], strides=[2, 2]), 1),
    "much padding behind a depthwise one": (
        lambda nodes, constants: attribute(nodes["block0_dw"], group=32, pads=[1, 1, 3, 1]), 0),
    "dilation": (lambda nodes, constants: attribute(nodes["block0_dw"], group=32, pads=[2] * 4, dilations=[2, 2]), 0),
    "a mean over rows only": (lambda nodes, constants: replace_constant(constants, "block1_axes", np.int64([2])), 1),
    "a factor of columns": (
        lambda nodes, constants: replace_constant(constants, "block0_factor", np.ones((1, 1, 1, 64), np.float32)), 0),
    "another activation": (lambda nodes, constants: setattr(nodes["block1_expand_gate"], "op_type", "HardSigmoid"), 1),
    "another gate": (lambda nodes, constants: setattr(nodes["block2_gate"], "op_type", "Tanh"), 2),
    "means of columns": (
        lambda nodes, constants: replace_constant(constants, "means", np.zeros((1, 1, 1, WIDTH), np.float32)), 0),
    "a mean added": (lambda nodes, constants: setattr(nodes["sub"], "op_type", "Add"), 0),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_what_only_looks_like_a_block_is_none(tmp_path, description, name):
    change, blocks = CHANGES[name]
    path = network(tmp_path / "net.onnx", description, sizes=False)
    spoil(path, change)
    found = find_blocks(model_of(path))
    assert (len(found.blocks) if found else 0) == blocks


def test_float16_graphs_have_none(prepared):
    assert find_blocks(model_of(prepared("f16"))) is None


def test_other_models_have_none(prepared):
    for name in ("f32", "int8", "tail", "no-metadata"):
        assert find_blocks(model_of(prepared(name))) is None


@pytest.mark.parametrize("batch", [1, 2, None])
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_engine_gives_what_the_blocks_give(monkeypatch, tmp_path, library, description, precision, batch):
    path = network(tmp_path / "net.onnx", description, quantized=precision == "int8", batch=batch)
    whole = built(path, tmp_path / "whole", "off", precision)
    assert "cpu_blocks" not in whole["backend"] and not (tmp_path / "whole" / "cpu_blocks.npz").exists()
    random = np.random.default_rng(2)
    images = random.integers(0, 256, (batch or 3, *description.image_shape), np.uint8)
    for count in ENDS:
        folder = tmp_path / f"blocks{count}"
        manifest = built(path, folder, str(count), precision)
        told = manifest["backend"]["cpu_blocks"]
        assert (told["blocks"], told["ratio"], told["file"]) == (count, None, "cpu_blocks.npz")
        assert manifest["files"].keys() == {"engine.xml", "engine.bin", "cpu_blocks.npz"}
        layers = {row["name"]: row for row in manifest["precision"]["layers"] if row.get("tactic") == "cpu_blocks"}
        assert {f"block{index}_dw" for index in range(count)} <= layers.keys()
        assert layers["block0_stem"]["precision"] == library.product_precision
        assert layers["block0_dw"]["precision"] == library.vector_precision
        names = [row["name"] for row in manifest["precision"]["layers"] if row["type"].lower() == "convolution"]
        assert len(set(names)) == len(names) == sum(manifest["precision"]["convolutions"].values())
        assert manifest["precision"]["not_built"] == []
        for _ in range(2):  # the second time from the folder's cache
            runner, ran = Runner(folder), count_runs(monkeypatch)
            found = runner({"image": images})
            assert ran == [len(images)]
            for name, expected in maps(description, images).items():
                assert relative_error(found[name], expected) < (0.1 if precision == "int8" else 0.02)


def count_runs(monkeypatch):
    """Returns a list that gets the number of images of each later run of CPU blocks."""
    ran, call = [], blocks_module.CpuBlocks.__call__

    def counted(self, images):
        ran.append(len(images))
        return call(self, images)

    monkeypatch.setattr(blocks_module.CpuBlocks, "__call__", counted)
    return ran


@pytest.mark.parametrize("throughput", [False, True])
def test_several_threads_and_what_they_leave(monkeypatch, tmp_path, library, description, throughput):
    manifest = built(network(tmp_path / "net.onnx", description), tmp_path / "engine", "5")
    engine = openvino_backend.load(tmp_path / "engine" / manifest["engine"], manifest, throughput)
    random = np.random.default_rng(4)
    images = [random.integers(0, 256, (1, *description.image_shape), np.uint8) for _ in range(6)]
    expected = [engine({"image": image}) for image in images]
    made, make = [], engine.cpu_blocks.another
    monkeypatch.setattr(engine.cpu_blocks, "another", lambda: made.append(make()) or made[-1])
    for _ in range(3):  # threads come and go
        with ThreadPoolExecutor(3) as pool:
            for found, known in zip(pool.map(lambda image: engine({"image": image}), images), expected):
                for name, array in found.items():
                    np.testing.assert_array_equal(array, known[name])
    assert len(made) <= 2  # and one was there


def test_an_engine_lives_on_after_cpu_blocks_could_not_be_made(monkeypatch, tmp_path, library, description):
    manifest = built(network(tmp_path / "net.onnx", description), tmp_path / "engine", "5")
    engine = openvino_backend.load(tmp_path / "engine" / manifest["engine"], manifest)
    feeds = {"image": np.zeros((1, *description.image_shape), np.uint8)}
    engine.idle.clear()
    make = engine.cpu_blocks.another

    def refuse():
        raise UserError("too little memory")

    monkeypatch.setattr(engine.cpu_blocks, "another", refuse)
    for _ in range(2):
        with pytest.raises(UserError, match="too little memory"):
            engine(feeds)
    monkeypatch.setattr(engine.cpu_blocks, "another", make)
    assert set(engine(feeds)) == {"map0_out", "map1_out"}
    with pytest.raises(ValueError, match="not uint8"):
        engine({"image": np.zeros((1, 8, 8, 3), np.uint8)})
    assert set(engine(feeds)) == {"map0_out", "map1_out"}


def maps(description, images):
    """Computes the network's outputs by the reference implementation."""
    features = [reference(description, image) for image in images]
    found = {}
    for number, index in enumerate((2, 4)):
        rows = [one[f"block {index}"] for one in features]
        found[f"map{number}_out"] = np.stack([row @ head(index, row.shape[-1])[0, 0] for row in rows])
    return {name: array.transpose(0, 3, 1, 2) for name, array in found.items()}


@pytest.mark.parametrize(
    ("ratios", "blocks", "raced"),
    [
        ({5: 0.7, 3: 0.8, 1: 0.5}, 5, [5, 3]),
        ({5: 0.7, 3: 0.6, 1: 0.9}, 3, [5, 3, 1]),
        ({5: 0.9, 3: 0.8, 1: 0.7}, 1, [5, 3, 1]),
        ({5: 1.2, 3: 1.1, 1: 0.97}, 1, [5, 3, 1]),
        ({5: 1.0, 3: 0.99, 1: 1.3}, None, [5, 3, 1]),
    ],
)
def test_as_many_blocks_as_are_fastest(monkeypatch, tmp_path, capsys, library, description, ratios, blocks, raced):
    asked = []

    def ratio(first, second):
        made, _, images = first.args
        channels = max(array.shape[-1] for array in made(images).values())
        asked.append({16: 1, 24: 3, 40: 5}[channels])
        first(), second()
        return ratios[asked[-1]]

    monkeypatch.setattr(choose, "time_ratio", ratio)
    manifest = built(network(tmp_path / "net.onnx", description), tmp_path / "engine", "auto")
    assert asked == raced
    told = manifest["backend"].get("cpu_blocks")
    assert (told and told["blocks"]) == blocks
    said = capsys.readouterr().out
    if blocks is None:
        assert "in C++" not in said and not (tmp_path / "engine" / "cpu_blocks.npz").exists()
    else:
        assert told["ratio"] == ratios[blocks]
        assert f"the first {blocks} blocks in C++" in said and f"{ratios[blocks]:.2f} times as long" in said


def test_one_that_gives_something_else_is_not_taken(monkeypatch, tmp_path, library, description):
    monkeypatch.setattr(choose, "checked_cpu_blocks", lambda library, described, threads: None)
    path = network(tmp_path / "net.onnx", description)
    assert "cpu_blocks" not in built(path, tmp_path / "auto", "auto")["backend"]
    with pytest.raises(UserError, match="--cpu-blocks 3: it gives something else here than OpenVINO"):
        built(path, tmp_path / "three", "3")


def test_what_is_asked_for_and_is_not_there_is_an_error(monkeypatch, tmp_path, library, description, prepared):
    path = network(tmp_path / "net.onnx", description)
    with pytest.raises(UserError, match="--cpu-blocks 6: expected 1 to 5"):
        built(path, tmp_path / "six", "6")
    with pytest.raises(UserError, match="--cpu-blocks 1: the model does not begin with an EfficientNet's"):
        built(prepared("f32"), tmp_path / "none", "1")
    monkeypatch.setattr(choose, "load_cpu_blocks_library", lambda: None)
    with pytest.raises(UserError, match="--cpu-blocks 3: its library cannot be made here"):
        built(path, tmp_path / "uncompiled", "3")
    assert "cpu_blocks" not in built(path, tmp_path / "without", "auto")["backend"]


def test_fp32_has_none(tmp_path, library, description):
    manifest = built(network(tmp_path / "net.onnx", description), tmp_path / "fp32", "auto", "fp32")
    assert "cpu_blocks" not in manifest["backend"]


def test_an_engine_of_another_cpu_is_run_by_openvino_alone(monkeypatch, tmp_path, library, description):
    built(network(tmp_path / "net.onnx", description), tmp_path / "engine", "5")
    images = np.random.default_rng(3).integers(0, 256, (1, *description.image_shape), np.uint8)
    with_cpu_blocks = Runner(tmp_path / "engine")({"image": images})
    monkeypatch.setattr("effedge.deploy.native.cpu_blocks.blocks.cpu", lambda: {"model": "another"})
    whole = Runner(tmp_path / "engine")({"image": images})
    for name, array in whole.items():
        assert 0 < relative_error(with_cpu_blocks[name], array) < 0.05


def test_an_engine_of_an_older_effedge_is_run_by_openvino_alone(monkeypatch, tmp_path, library, description):
    """Its manifest calls the blocks "front", and they lie in front.npz."""
    engine = tmp_path / "engine"
    manifest = built(network(tmp_path / "net.onnx", description), engine, "5")
    images = np.random.default_rng(3).integers(0, 256, (1, *description.image_shape), np.uint8)
    with_cpu_blocks = Runner(engine)({"image": images})
    (engine / "cpu_blocks.npz").rename(engine / "front.npz")
    manifest["files"]["front.npz"] = manifest["files"].pop("cpu_blocks.npz")
    manifest["backend"]["front"] = {**manifest["backend"].pop("cpu_blocks"), "file": "front.npz"}
    (engine / "manifest.json").write_text(json.dumps(manifest))
    runner, ran = Runner(engine), count_runs(monkeypatch)
    whole = runner({"image": images})
    assert ran == []
    for name, array in whole.items():
        assert 0 < relative_error(with_cpu_blocks[name], array) < 0.05
