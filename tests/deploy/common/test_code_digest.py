"""The rule by which a stage knows that its own code has changed: in a small tree, and in effedge itself."""

from __future__ import annotations

import sys

import pytest

from effedge.deploy.common import code_digest as module
from effedge.deploy.common.code_digest import ROOT, code_digest, source_files

SOURCES = {
    "__init__.py": "",
    "calibration/__init__.py": "",
    "calibration/quantize.py": (
        "from typing import TYPE_CHECKING\n"
        "import numpy\n"
        "from effedge.deploy.image import files\n"
        "if TYPE_CHECKING:\n"
        "    from effedge.deploy.draw import Drawing\n"
        "def make():\n"
        "    from effedge.calibration.correct import correct, levels\n"
    ),
    "calibration/correct.py": "import effedge.deploy.native.steps\n",
    "calibration/other.py": "",
    "deploy/__init__.py": "",
    "deploy/draw.py": "",
    "deploy/image/__init__.py": "",
    "deploy/image/files.py": "from effedge.calibration import quantize\n",  # a circle ends
    "deploy/native/__init__.py": "",
    "deploy/native/steps.py": "",
    "deploy/native/steps.cpp": '#include <vector>\n#include "own.h"\n  # include "../common/far.h"\n',
    "deploy/native/own.h": "",
    "deploy/native/unused.h": "",
    "deploy/common/far.h": '#include "farther.h"\n',
    "deploy/common/farther.h": "",
}
READ = {
    "calibration/__init__.py", "calibration/quantize.py", "calibration/correct.py", "deploy/__init__.py",
    "deploy/image/__init__.py", "deploy/image/files.py", "deploy/native/__init__.py", "deploy/native/steps.py",
    "deploy/native/steps.cpp", "deploy/native/own.h", "deploy/common/far.h", "deploy/common/farther.h", "__init__.py",
}  # fmt: skip


@pytest.fixture
def tree(tmp_path, monkeypatch):
    for name, text in SOURCES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    module.imported_modules.cache_clear()
    module.native_sources.cache_clear()
    yield tmp_path
    module.imported_modules.cache_clear()
    module.native_sources.cache_clear()


def names(tree, *modules):
    return {path.relative_to(tree).as_posix() for path in source_files(*modules)}


def test_a_module_depends_on_what_it_imports_its_packages_and_the_c_sources_beside_it(tree):
    assert names(tree, "effedge.calibration.quantize") == READ


def test_what_only_a_type_checker_imports_is_no_dependency_and_a_second_module_adds_its_own(tree):
    assert "deploy/draw.py" not in names(tree, "effedge.calibration.quantize")
    assert names(tree, "effedge.calibration.quantize", "effedge.deploy.draw") == READ | {"deploy/draw.py"}


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_the_digest_changes_exactly_where_a_file_that_is_read_changes(tree, name):
    before = code_digest("effedge.calibration.quantize")
    (tree / name).write_text(SOURCES[name] + "\n")
    module.imported_modules.cache_clear()
    assert (code_digest("effedge.calibration.quantize") != before) == (name in READ)


def test_a_module_that_does_not_exist_is_an_error(tree):
    with pytest.raises(ValueError, match="no module 'effedge.calibration.quantise'"):
        code_digest("effedge.calibration.quantise")


# Ten modules of effedge, and which stages run again when each is changed.
STAGES = {
    "export": ("effedge.pipeline.export.torch_to_onnx",),
    "calibrate": ("effedge.calibration.quantize",),
    "calibrate within MAX_DROP": ("effedge.calibration.quantize", "effedge.pipeline.evaluation.accuracy_limit"),
    "build for CPUs": ("effedge.engines.build", "effedge.engines.openvino.builder"),
    "build for GPUs": ("effedge.engines.build", "effedge.engines.tensorrt.builder"),
}
EVERY = set(STAGES)
CALIBRATIONS = {"calibrate", "calibrate within MAX_DROP"}
BUILDS = {"build for CPUs", "build for GPUs"}  # an engine is compared with its ONNX on a prepared image
TOUCHED = {
    "deploy/image/draw.py": set(),
    "pipeline/models/bifpn.py": {"export"},
    "calibration/search/threshold_search.py": CALIBRATIONS,
    "deploy/image/preprocess.py": CALIBRATIONS | BUILDS,
    "deploy/native/letterbox_nms/letterbox_nms.cpp": CALIBRATIONS | BUILDS,
    "pipeline/evaluation/coco_metrics.py": {"calibrate within MAX_DROP"},
    "engines/openvino/swish.py": {"calibrate within MAX_DROP", "build for CPUs"},
    "deploy/native/cpu_blocks/simd.h": {"calibrate within MAX_DROP", "build for CPUs"},
    "engines/tensorrt/timing_cache.py": {"build for GPUs"},
    "engines/stage.py": EVERY,
}


@pytest.mark.skipif(sys.version_info < (3, 10), reason="the host's rooms are Python 3.10")
@pytest.mark.parametrize("name", sorted(TOUCHED))
def test_which_stages_a_change_repeats(name):
    pytest.importorskip("effedge.pipeline", reason="only the device's part of effedge is here")
    assert {stage for stage, modules in STAGES.items() if ROOT / name in source_files(*modules)} == TOUCHED[name]


@pytest.mark.skipif(sys.version_info < (3, 10), reason="the host's rooms are Python 3.10")
def test_a_change_of_the_threshold_search_does_not_repeat_the_fp16_conversion():
    pytest.importorskip("effedge.pipeline", reason="only the device's part of effedge is here")
    files = source_files("effedge.calibration.fp16.convert")
    assert ROOT / "calibration/search/threshold_search.py" not in files
    assert ROOT / "calibration/fp16/node_selection.py" in files
