"""The bill of materials: CycloneDX by its schema, and true of what made the bundle and of what the board needs."""

import hashlib
import importlib.metadata
import json
import tarfile

import pytest

from effedge.engines.stage import run_stage
from effedge.engines.targets import TARGETS
from effedge.pipeline.shipping.sbom import NAME, VERSIONS, bill_of_materials, recorded_tools
from tests.pipeline.shipping.test_bundle import make

CONTENT = {"name": "net-int8-jetson-orin", "model": "b0", "weights": "mine", "precision": "int8"}
MODELS = {"model/model.onnx": b"graph", "model/weights.bin": b"weights"}


def bill_for(target, tools=("torch 2.9.1+cpu", "onnx-ir 0.1.12")):
    return json.loads(bill_of_materials(CONTENT, TARGETS[target], tools, MODELS))


def needs(bill):
    """The versions that each package of the board may have."""
    return {
        entry["name"]: entry["properties"][0]["value"]
        for entry in bill["components"]
        if entry["bom-ref"].startswith("board:") and entry["properties"][0]["name"] == VERSIONS
    }


@pytest.mark.parametrize("target", TARGETS)
def test_it_is_valid_by_the_specifications_schema(target):
    """With cyclonedx-python-lib[json-validation], where that is installed."""
    validation = pytest.importorskip("cyclonedx.validation.json")
    schema = pytest.importorskip("cyclonedx.schema")
    problem = validation.JsonStrictValidator(schema.SchemaVersion.V1_6).validate_str(json.dumps(bill_for(target)))
    assert problem is None, problem


@pytest.mark.parametrize(
    ("target", "name", "versions"),
    [
        ("jetson-xavier", "tensorrt", "8.5.*"),
        ("jetson-orin", "tensorrt", "10.3.* or 10.4.* or 10.5.* or 10.6.* or 10.7.*"),
        ("rtx", "tensorrt-rtx-cu13", "1.*"),
        ("cpu", "openvino", "any"),
        ("cpu-ort", "onnxruntime", "any"),
    ],
)
def test_it_says_what_the_board_needs(target, name, versions):
    assert needs(bill_for(target)) == {"python": ">=3.8", "numpy": ">=1.17", "pillow": ">=7.0", name: versions}


def test_each_component_has_a_reference_of_its_own_and_the_bundle_depends_on_it():
    bill = bill_for("jetson-orin")
    references = [entry["bom-ref"] for entry in bill["components"]]
    tools = [entry["bom-ref"] for entry in bill["metadata"]["tools"]["components"]]
    assert len({*references, *tools, "bundle"}) == len(references) + len(tools) + 1
    assert bill["dependencies"] == [{"ref": "bundle", "dependsOn": references}]
    assert bill["metadata"]["tools"]["components"][0]["purl"] == "pkg:pypi/torch@2.9.1%2Bcpu"
    hashes = {entry["name"]: entry["hashes"][0]["content"] for entry in bill["components"] if "hashes" in entry}
    assert hashes == {name: hashlib.sha256(data).hexdigest() for name, data in MODELS.items()}


def test_the_same_bundle_has_the_same_bytes_and_another_has_another_number():
    first = bill_of_materials(CONTENT, TARGETS["cpu"], [], MODELS)
    assert first == bill_of_materials(CONTENT, TARGETS["cpu"], [], MODELS)
    other = bill_of_materials(CONTENT, TARGETS["cpu"], ["torch 2"], MODELS)
    assert json.loads(first)["serialNumber"] != json.loads(other)["serialNumber"]


def test_the_tools_of_all_stages_are_named_but_not_those_of_another_file(tmp_path):
    def stage(name, tool, **inputs):
        path = tmp_path / name
        run_stage(
            name, path, inputs=inputs, options={}, tools=[tool], code=[], make=lambda out: out.write_text(name)
        )  # fmt: skip
        return path

    versions = {name: f"{name} {importlib.metadata.version(name)}" for name in ("numpy", "pillow", "onnx", "pytest")}
    exported = stage("exported", "numpy")
    stage("other", "pytest", exported=exported)
    prepared = stage("prepared", "onnx", simplified=stage("simplified", "pillow", exported=exported))
    assert recorded_tools(prepared) == sorted(versions[name] for name in ("numpy", "pillow", "onnx"))
    prepared.write_text("changed")
    assert recorded_tools(prepared) == []
    (tmp_path / "prepared.json").write_text("[" * 100_000)
    assert recorded_tools(prepared) == []


def test_it_is_in_each_bundle_and_in_the_list_that_is_checked(tmp_path):
    with tarfile.open(make(tmp_path / "net")) as files:
        read = {entry.name.partition("/")[2]: files.extractfile(entry).read() for entry in files}
    bill = json.loads(read[NAME])
    made_by = {entry["name"]: entry["version"] for entry in bill["metadata"]["tools"]["components"]}
    assert made_by == {name: importlib.metadata.version(name) for name in ("numpy", "onnxruntime", "pillow")}
    assert hashlib.sha256(read[NAME]).hexdigest() in read["SHA256SUMS"].decode()
    assert hashlib.sha256(read["model/model.onnx"]).hexdigest() in read[NAME].decode()
