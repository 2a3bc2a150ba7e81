"""No ONNX, however damaged, is more than one line of error for the header's reader and for what relies on a header."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from effedge.engines.onnx_header import onnx_files, read_header
from effedge.engines.preflight import preflight
from effedge.engines.targets import TARGETS
from effedge.engines.traffic import traffic
from tests.engines.graphs import network, spec
from tests.fuzz.strategies import FAST, SLOW, TEXTS, VALUES, changed, damaged, one_line_or, run_of

COUNTS = [FAST, pytest.param(SLOW // 2, marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def header_bytes(tmp_path_factory) -> bytes:
    """A small INT8 model without the values of its weights: nearly all of its bytes are structure."""
    model = onnx.load(network(tmp_path_factory.mktemp("fuzz") / "m.onnx", quantized=True))
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) > 64:
            tensor.raw_data = tensor.raw_data[:8]
    return model.SerializeToString()


def read(path: Path, content: bytes) -> None:
    """Reads a header and uses it as the builders do before they hand the file to a backend."""
    path.write_bytes(content)
    header = one_line_or(lambda: read_header(path))
    if header is None:
        return
    one_line_or(lambda: onnx_files(path))
    for target in (TARGETS["cpu"], TARGETS["jetson-orin"]):
        one_line_or(lambda target=target: [str(finding) for finding in preflight(header, target)])
    one_line_or(lambda: (traffic(header, typed=True), header.pair_types, header.has_fp16_scales, header.fp16_layers))


@pytest.mark.parametrize("count", COUNTS)
def test_a_damaged_onnx_is_one_line(tmp_path, header_bytes, count):
    @run_of(count)
    @given(damaged(header_bytes))
    def run(content):
        read(tmp_path / "m.onnx", content)

    run()


@pytest.mark.parametrize("count", COUNTS)
def test_metadata_of_any_kind_is_one_line(tmp_path, header_bytes, count):
    @run_of(count)
    @given(changed(spec()), VALUES, VALUES, st.sampled_from(TEXTS[:10]))
    def run(changed_spec, batch, report, location):
        model = onnx.load_from_string(header_bytes)
        del model.metadata_props[:]
        values = {"effedge": changed_spec, "effedge_batch": batch, "effedge_calibration": {"float_layers": report}}
        helper.set_model_props(model, {key: json.dumps(value) for key, value in values.items()})
        tensor = model.graph.initializer[0]
        tensor.external_data.add(key="location", value=location.encode("utf-8", "replace").decode())
        read(tmp_path / "m.onnx", model.SerializeToString())

    run()
