"""Writes a model repository for NVIDIA Triton: a folder for each model, which is complete by itself.

An engine that takes images becomes two ensembles, NAME for RGB and NAME-file for the bytes of files, of the models
NAME-prepare or NAME-file-prepare, NAME-engine, and NAME-select. An engine that takes arrays is NAME alone.

A Python model has the modules of effedge that it needs in its folder: Triton may copy each model to a place of its own
(from a bucket), and the server needs no effedge installed, nor may another effedge there change a result.
"""

import importlib
import json
import shutil
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.code_digest import PACKAGE, ROOT, source_files
from effedge.deploy.common.files import atomic_folder
from effedge.deploy.common.outputs import is_engine
from effedge.deploy.runtime.backends import BACKENDS
from effedge.deploy.runtime.engine import CLASS_OF_TASK
from effedge.deploy.runtime.manifest import NAME as MANIFEST
from effedge.deploy.runtime.onnx_external import external_files
from effedge.deploy.runtime.selection import MAX_DETECTIONS, THRESHOLD
from effedge.deploy.runtime.signature import NAME as SIGNATURE
from effedge.deploy.triton import configs
from effedge.deploy.triton.config_text import Message, as_text
from effedge.deploy.triton.configs import Served
from effedge.deploy.triton.padded_operators import padded_operators
from effedge.deploy.triton.python_backend import SPEC, DescribedEngine
from effedge.deploy.triton.run_engine import ENGINE

VERSION = "1"
KEEP = ".keep"  # an ensemble's version has no file, and git and buckets keep no empty folder
STEPS = "effedge.deploy.triton."
RIGHT_BEHIND_PAD = {"Add", "Mul"}  # into which ONNX Runtime does not move it, as into a pool
# The name of the module must be model.py. Python's cache would be written into the repository.
MODEL = '''"""Runs {module} in Triton's Python backend. Written by `effedge triton`."""

import os
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from {module} import TritonPythonModel as TritonPythonModel
'''


def write_repository(out: Path, engines: Sequence[Served]) -> None:
    """Writes the models of engines; a repository of effedge's that is there is replaced.

    Raises UserError for an engine that cannot be served as it is asked for, and if `out` cannot be written.
    """
    for served in engines:
        check(served)
    if is_engine(out):
        raise UserError(f"'{out}' is an engine, which the repository would replace: choose another place")
    with atomic_folder(out) as repository:
        for served in engines:
            if served.task in CLASS_OF_TASK:
                write_image_models(repository, served)
            else:
                write_engine(repository, served, served.name)


def check(served: Served) -> None:
    """Raises UserError for an engine that the backend cannot serve, or would serve with other results."""
    runtime = served.manifest["backend"]["name"]
    possible = configs.SERVED_BY[runtime]
    if served.backend not in possible:
        raise UserError(
            f"'{served.folder}' runs on {runtime}, which --backend {served.backend} cannot run: give "
            + " or ".join(f"--backend {name}" for name in possible)
        )
    configs.engine_config(served, served.name)
    if served.backend == "onnxruntime":
        onnx = served.folder / served.manifest["engine"]
        # deploy/runtime/onnxruntime_backend.py switches off the optimizers that change these models' results, which
        # Triton's backend cannot.
        fp8 = served.manifest["backend"].get("fp8")
        wrong = "FP8" if fp8 else "a Pad" if padded_operators(onnx) - RIGHT_BEHIND_PAD else None
        if wrong is not None:
            raise UserError(
                f"'{served.folder}' has {wrong}, which ONNX Runtime computes wrongly unless it is set up otherwise "
                "than Triton's backend can: give --backend python"
            )


def write_image_models(repository: Path, served: Served) -> None:
    """Writes the models of an engine that takes images."""
    name, spec = served.name, served.manifest["spec"]
    most = spec["input"]["batch"][2]
    engine, select = f"{name}-engine", f"{name}-select"
    write_engine(repository, served, engine)
    options: Mapping[str, object] = {} if served.task == "classification" else {
        "threshold": THRESHOLD, "max_detections": MAX_DETECTIONS
    }  # fmt: skip
    geometry = configs.tensor_entry(configs.GEOMETRY, "INT32", [4])
    inputs = [geometry, *configs.engine_outputs(served)]
    write_step(repository, served, "select_results",
               configs.step_config(select, inputs, configs.result_outputs(served), most, options))  # fmt: skip
    for ensemble, as_file in ((name, False), (f"{name}-file", True)):
        prepare, inputs = f"{ensemble}-prepare", [configs.image_input(as_file)]
        write_step(repository, served, "prepare_images",
                   configs.step_config(prepare, inputs, configs.prepared_outputs(served), most, {}))  # fmt: skip
        config = configs.ensemble_config(served, ensemble, (prepare, engine, select), as_file)
        folder = write_config(repository, config)
        (folder / KEEP).touch()
        write_labels(folder.parent, served)


def write_config(repository: Path, config: Message) -> Path:
    """Makes the folder of a model, with its configuration; returns the folder of its version."""
    folder = repository / config["name"] / VERSION
    folder.mkdir(parents=True)
    (folder.parent / "config.pbtxt").write_text(as_text(config), encoding="ascii")
    return folder


def write_labels(folder: Path, served: Served) -> None:
    """Writes the classes' labels, a line each."""
    labels = [" ".join(label.split()) for label in DescribedEngine(served.manifest["spec"]).all_labels()]
    (folder / configs.LABELS).write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")


def write_step(repository: Path, served: Served, module: str, config: Message) -> None:
    """Writes the Python model of a step before or behind the engine."""
    folder = write_config(repository, config)
    (folder / SPEC).write_text(json.dumps(served.manifest["spec"], indent=1) + "\n", encoding="utf-8")
    write_code(folder, STEPS + module)


def write_engine(repository: Path, served: Served, name: str) -> None:
    """Writes the engine's model: the plan, the ONNX with the files of its weights, or the engine's folder."""
    folder = write_config(repository, configs.engine_config(served, name))
    source = served.folder / served.manifest["engine"]
    if served.backend == "python":
        files = [MANIFEST, *served.manifest["files"], *([SIGNATURE] if (served.folder / SIGNATURE).exists() else [])]
        copy_files({served.folder / file: folder / ENGINE / file for file in files})
        backend, _ = BACKENDS[served.manifest["backend"]["name"]]
        write_code(folder, STEPS + "run_engine", backend)
    else:
        beside = external_files(source) if served.backend == "onnxruntime" else ()
        copy_files({source.parent / file: folder / file for file in beside})
        copy_files({source: folder / configs.MODEL_FILES[served.backend]})
    if served.task == "classification":
        write_labels(folder.parent, served)


def write_code(folder: Path, module: str, backend: Optional[str] = None) -> None:
    """Writes the model.py that runs a module, and the package with all modules that it imports, beside it."""
    (folder / "model.py").write_text(MODEL.format(module=module), encoding="ascii")
    package = folder / PACKAGE
    modules: List[str] = [module, *([backend] if backend else [])]
    copy_files({file: package / file.relative_to(ROOT) for file in source_files(*modules)})
    copy_files({Path(str(importlib.import_module(PACKAGE).__file__)): package / "__init__.py"})


def copy_files(files: Dict[Path, Path]) -> None:
    """Copies files, by their sources, to new places."""
    for source, target in files.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(str(source), str(target))
