"""The table of builds: its cases, and one small network built for real."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from effedge.deploy.common.cli import UserError
from effedge.engines.onnx_header import read_header
from effedge.engines.targets import TARGETS
from effedge.pipeline.reports import builds
from effedge.pipeline.reports.builds import Case, Row, cases, local_weights, markdown
from tests.engines import graphs

RTX = TARGETS["rtx"]


def test_every_model_at_every_precision_and_d0_in_its_variants():
    found = cases(["b0", "d0"], RTX)
    assert found[:3] == [Case("b0", "fp32"), Case("b0", "fp16"), Case("b0", "int8")]
    assert len(set(found)) == len(found) == 6 + (3 * 3 - 1) + 3
    assert {one.capabilities for one in found} == {(), ("7.5",), ("8.6",), ("12.0",)}
    assert [one.precision for one in found if one.batch == (1, 4, 8)] == ["fp32", "fp16", "int8"]
    assert Case("d0", "int8", ("7.5",)) not in found  # TensorRT-RTX has none
    assert not any(one.capabilities for one in cases(["d0"], TARGETS["trt"]))  # it builds for its own GPU
    assert len(cases(["b0"], RTX)) == 3


def test_weights_that_need_no_download_come_first(monkeypatch):
    assert [local_weights(one) for one in ("d0", "b0", "d1", "det-lite0")] == ["digits", "digits", "random", "random"]
    monkeypatch.setattr(builds, "lite0_package_file", lambda: None)
    assert local_weights("lite0") == "random"
    monkeypatch.setattr(builds, "lite0_package_file", lambda: Path("lite0.pth"))
    assert local_weights("lite0") == "imagenet"


def test_a_line_of_the_table():
    row = Row("d0", "digits", "int8", "portable", "1:4:8", 12.34, 9.87, 77.0, {"f32": 4, "int8": 210})
    assert markdown([row]).splitlines()[2] == (
        "| d0 | digits | int8 | portable | 1:4:8 | 12.3 | 9.9 | 77.0 | 210 int8, 4 f32 |"
    )


def test_a_network_is_prepared_built_and_measured(monkeypatch, tmp_path, capsys):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed (extra: rtx)")
    images = tmp_path / "drawn" / "images"
    images.mkdir(parents=True)
    shutil.copy(Path(builds.__file__).resolve().parents[2] / "docs" / "detection.jpg", images)
    simplified = graphs.network(tmp_path / "simplified.onnx")
    monkeypatch.setattr(builds, "digits_folder", lambda *arguments, **options: images.parent)
    monkeypatch.setattr(builds, "run_chain", lambda *arguments, **options: simplified)
    words = ["builds", "b0", "--out", str(tmp_path / "build"), "--json", str(tmp_path / "rows.json"), "-q"]
    monkeypatch.setattr(sys, "argv", words)
    builds.main()
    rows = [Row(**one) for one in json.loads((tmp_path / "rows.json").read_text())]
    assert capsys.readouterr().out.strip() == markdown(rows)
    assert [row.convolutions for row in rows] == [{"f32": 4}, {"f16": 4}, {"int8": 4}]
    assert all(row.megabytes > 0.1 and row.cpu_seconds > 0 and row.gpus == "portable" for row in rows)
    assert len(read_header(tmp_path / "int8.onnx").quantized_convolutions) == 4
    built = (tmp_path / "int8-rtx" / "engine.plan").stat().st_mtime_ns
    builds.main()  # is up to date
    assert (tmp_path / "int8-rtx" / "engine.plan").stat().st_mtime_ns == built


@pytest.mark.parametrize(
    ("words", "message"), [(["b9"], "did you mean"), (["b0", "--target", "cpu"], "'cpu' has no plan to measure")]
)
def test_bad_input_is_one_line(monkeypatch, words, message):
    monkeypatch.setattr(sys, "argv", ["builds", *words])
    with pytest.raises(UserError, match=message):
        builds.main()
