"""The exported graph: its contract, and PyTorch's own answers from it."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from effedge.deploy.common.cli import UserError
from effedge.pipeline.export import torch_to_onnx
from effedge.pipeline.export.torch_to_onnx import HeadOptions, export_model, export_stage, parse_batch
from effedge.pipeline.models.anchors import make_anchors
from effedge.pipeline.models.tables import EFFICIENTDETS, EFFICIENTNETS, MODELS, Size, is_detector, normalization
from effedge.pipeline.weights.load import load_weights
from tests.pipeline.numpy_detector import assert_candidates, in_rows, normalize

BATCH = (1, 2, 4)
EXPORTS = [("b0", 64), ("v2-b0", 64), ("lite0", 64), ("d0", 512), ("d0", 160, BATCH), ("det-v2-b0", 160),
           ("efficientdetv2_dt", 160)]  # fmt: skip
each_export = pytest.mark.parametrize("which", EXPORTS, ids=lambda which: "-".join(map(str, which[:2])))


def open_session(proto, path=None):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    source = str(path) if path else proto.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def photographs(count, size):
    """Crops of scikit-learn's flower: what random weights were made for."""
    from sklearn.datasets import load_sample_image

    flower = load_sample_image("flower.jpg")
    crops = [flower[30 * index :, 60 * index :] for index in range(count)]
    rows = [np.linspace(0, len(crop) - 1, size).astype(int) for crop in crops]
    columns = [np.linspace(0, crop.shape[1] - 1, size).astype(int) for crop in crops]
    return np.stack([crop[y][:, x] for crop, y, x in zip(crops, rows, columns, strict=True)])


def with_heads(proto):
    """A copy that also gives the class logits [N,A,C] and the box codes [N,A,4] that candidates are chosen from."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    made_by = {output: node.op_type for node in copy.graph.node for output in node.output}
    readers = [node for node in copy.graph.node if node.op_type in ("ReduceMax", "GatherElements")]
    heads = list(dict.fromkeys(node.input[0] for node in readers if made_by.get(node.input[0]) == "Concat"))
    for name in heads:
        copy.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None] * 3))
    return copy, heads


def assert_within(actual, expected):
    """Within 1e-4 of its range."""
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= 1e-4 * np.ptp(expected)


def assert_is_pytorchs(prepared, proto, images):
    """The graph's heads, candidates or logits are those of the plain module on normalized images."""
    with torch.inference_mode():
        expected = prepared.module(normalize(images, *normalization(prepared.name)).float())
    if not is_detector(prepared.name):
        (logits,) = open_session(proto).run(None, {"image": images})
        assert logits.dtype == np.float32
        assert_within(logits, expected.numpy())
        return
    opened, heads = with_heads(proto)
    names = ["boxes", "scores", "classes", *heads]
    boxes, scores, classes, *raw = open_session(opened).run(names, {"image": images})
    assert (boxes.dtype, scores.dtype, classes.dtype) == (np.float32, np.float32, np.int32)
    logits = next(array for array in raw if array.shape[2] == prepared.classes)
    codes = next(array for array in raw if array.shape[2] == 4)
    assert_within(logits, in_rows(expected[0], prepared.classes))
    # The exported box head speaks in half anchors, x before y.
    assert_within(codes, in_rows(expected[1], 4)[..., [1, 0, 3, 2]] * np.float32([2, 2, 1, 1]))
    row = EFFICIENTDETS[prepared.name]
    assert_candidates((boxes, scores, classes), *expected, row, prepared.classes, prepared.size)


@each_export
@pytest.mark.parametrize("form", ["exported", "simplified"])
def test_the_graph_answers_as_pytorch_does(which, form, prepared):
    model = prepared(*which)
    assert_is_pytorchs(model, getattr(model, form), photographs(1, model.size))


@pytest.mark.parametrize("form", ["exported", "simplified"])
def test_a_dynamic_batch_answers_as_each_image_alone(form, prepared):
    model = prepared("d0", 160, BATCH)
    images = photographs(3, 160)
    assert_is_pytorchs(model, getattr(model, form), images)
    session = open_session(getattr(model, form))
    together = session.run(["scores"], {"image": images})[0]
    alone = [session.run(["scores"], {"image": image[None]})[0] for image in images]
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-6)
    assert np.ptp(together[:, 0]) > 1e-4  # the images are different ones


@each_export
@pytest.mark.parametrize("form", ["exported", "simplified"])
def test_inputs_and_outputs_are_the_contracts(which, form, prepared):
    model = prepared(*which)
    proto, batch = getattr(model, form), "N" if BATCH in which else 1
    onnx.checker.check_model(proto, full_check=True)

    def ends(values):
        kinds = onnx.TensorProto.DataType.Name
        tensors = [(value.name, value.type.tensor_type) for value in values]
        return {
            name: (kinds(tensor.elem_type), [dim.dim_param or dim.dim_value for dim in tensor.shape.dim])
            for name, tensor in tensors
        }

    assert ends(proto.graph.input) == {"image": ("UINT8", [batch, model.size, model.size, 3])}
    if is_detector(model.name):
        expected = {"boxes": ("FLOAT", [batch, 1000, 4]), "scores": ("FLOAT", [batch, 1000])}
        assert ends(proto.graph.output) == expected | {"classes": ("INT32", [batch, 1000])}
    else:
        assert ends(proto.graph.output) == {"logits": ("FLOAT", [batch, model.classes])}


@each_export
@pytest.mark.parametrize("form", ["exported", "simplified"])
def test_the_graph_says_what_it_is(which, form, prepared):
    model = prepared(*which)
    entries = {entry.key: entry.value for entry in getattr(model, form).metadata_props}
    spec = json.loads(entries["effedge"])
    assert list(entries) == ["effedge"]
    assert (spec["model"], spec["weights"], spec["labels"]) == (model.name, "random", list("0123456"))
    assert spec["input"]["size"] == [model.size, model.size]
    assert spec["input"]["batch"] == list(which[2] if len(which) > 2 else (1, 1, 1))
    if is_detector(model.name):
        assert (spec["task"], spec["candidates"]) == ("detection", 1000)
        assert spec["input"]["resize"] == "letterbox" and spec["input"]["fill"] == [124, 116, 104]  # ImageNet's mean
    else:
        assert spec["task"] == "classification" and spec["input"]["resize"] == "center-crop"
        assert spec["input"]["crop"] == 0.875 and spec["input"]["interpolation"] == "bicubic"


@pytest.mark.parametrize(
    ("text", "batch"), [("1", (1, 1, 1)), ("8", (8, 8, 8)), ("1:4:8", (1, 4, 8)), ("2:2:16", (2, 2, 16))]
)
def test_a_batch_is_read(text, batch):
    assert parse_batch(text) == batch


@pytest.mark.parametrize("text", ["", "0", "-1", "1:2", "4:2:8", "1:9:8", "0:1:2", "1:2:3:4", "many", "1.5", "0:0:0"])
def test_a_batch_that_cannot_be_is_refused(text):
    with pytest.raises(UserError, match="expected N, or MIN:OPT:MAX"):
        parse_batch(text)


class Reached(Exception):
    """The exporter was called; what follows takes seconds."""


@pytest.fixture
def asked_for(monkeypatch):
    """What the exporter is called with, instead of exporting."""
    seen = {}

    def stop(graph, inputs, **options):
        seen.update(graph=graph, image=tuple(inputs[0].shape), **options)
        raise Reached

    monkeypatch.setattr(torch.onnx, "export", stop)
    return seen


def test_the_size_is_that_of_the_weights_unless_another_is_asked_for(asked_for, tmp_path):
    from effedge.pipeline.weights.save import save_weights

    path = tmp_path / "mine.safetensors"
    save_weights(load_weights("b0", "random", classes=3).state, path, {"size": "96", "labels": '["a", "b", "c"]'})
    for size, expected in [(None, (96, 96)), (Size(64, 128), (64, 128))]:
        with pytest.raises(Reached):
            export_model("b0", str(path), size=size)
        assert asked_for["image"] == (1, *expected, 3)
    with pytest.raises(Reached):
        export_model("lite1", "random")
    assert asked_for["image"] == (1, 240, 240, 3)


def test_anchors_and_size_of_a_checkpoint_of_effdet_are_exported(asked_for, tmp_path):
    state = load_weights("d0", "random", classes=2).state
    boxes = torch.from_numpy(make_anchors((256, 384), 5, 3.0))
    content = {f"model.{key}": value for key, value in state.items()} | {"anchors.boxes": boxes[:, [1, 0, 3, 2]]}
    torch.save(content, tmp_path / "bench.pth.tar")
    for size, anchors, expected, scale in (
        (None, None, (256, 384), 3.0),
        (Size(256, 256), None, (256, 256), 3.0),
        (None, "base=5", (256, 384), 5.0),
    ):
        with pytest.raises(Reached):
            export_model("d0", str(tmp_path / "bench.pth.tar"), size=size, anchors=anchors)
        graph = asked_for["graph"]
        assert asked_for["image"] == (1, *expected, 3)
        made = torch.cat([graph.centres - graph.halves, graph.centres + graph.halves], dim=1).numpy()
        np.testing.assert_allclose(made, make_anchors(expected, 5, scale), atol=1e-3)


def test_the_model_is_exported_as_for_inference(asked_for):
    with pytest.raises(Reached):
        export_model("lite0", "random", classes=3)
    assert not any(module.training for module in asked_for["graph"].modules())
    assert asked_for["dynamo"] is True


def test_a_second_export_of_the_same_is_not_made(tmp_path, monkeypatch, capsys):
    made = []

    def stub(*args, **options):
        import onnx_ir as ir

        made.append(args)
        return ir.Model(ir.Graph([], [], nodes=[], opset_imports={"": 18}), ir_version=8)

    monkeypatch.setattr(torch_to_onnx, "export_model", stub)
    out = tmp_path / "model.onnx"
    assert export_stage(out, "b0", "random", size=Size(64, 64))
    assert not export_stage(out, "b0", "random", size=Size(64, 64))
    assert export_stage(out, "b0", "random", size=Size(96, 96))  # another option
    assert len(made) == 2
    assert "export: up to date" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("d9", "random"), "unknown model 'd9': did you mean 'd"),
        (("b0", "randm"), "unknown weights 'randm': did you mean 'random'"),
        (("d0", "random", {"size": Size(500, 500)}), "size 500 does not suit d0"),
        (("d0", "random", {"labels": "nowhere.txt"}), "no labels file 'nowhere.txt'"),
    ],
)
def test_bad_input_is_refused_before_anything_is_made(arguments, message, tmp_path):
    from pathlib import Path

    name, weights, *rest = arguments
    options = dict(rest[0]) if rest else {}
    if "labels" in options:
        options = {"heads": HeadOptions(labels=Path(options["labels"]))}
    with pytest.raises(UserError, match=message):
        export_stage(tmp_path / "model.onnx", name, weights, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_model_exports_and_simplifies_at_its_own_size(name, tmp_path):
    """Minutes for the largest, and gigabytes of memory."""
    import onnx_ir as ir

    from effedge.pipeline.export.simplify import simplify_file

    ir.save(export_model(name, "random"), tmp_path / "model.onnx")
    simplify_file(tmp_path / "model.onnx", tmp_path / "simplified.onnx")  # compares both on a photograph
    simplified = onnx.load(tmp_path / "simplified.onnx")
    assert simplified.opset_import[0].version == 13
    kinds = {node.op_type for node in simplified.graph.node}
    assert not kinds & {"Pad", "Shape", "ReduceSum", "Identity", "Constant", "BatchNormalization", "Expand"}
    assert (name in EFFICIENTNETS) == ("TopK" not in kinds)


def test_the_candidates_indices_are_integers_all_the_way(prepared):
    """From the TopK over pairs to `classes` no float, which a builder's FP16 flag could turn into FP16."""
    exported = prepared("d0", 512).exported
    made_by = {output: node for node in exported.graph.node for output in node.output}
    waiting, path = ["classes"], []
    while waiting:
        node = made_by.get(waiting.pop())
        if node is not None and node.op_type != "TopK":
            path.append(node)
            waiting += node.input
    assert sorted(node.op_type for node in path) == ["Cast", "Div", "Mul", "Sub"]
    [cast] = [node for node in path if node.op_type == "Cast"]
    assert cast.output[0] == "classes"
