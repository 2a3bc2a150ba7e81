"""The rules of the code's layout (CONTRIBUTING.md), held against every source file."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "deploy": {"deploy"},
    "engines": {"engines", "deploy"},
    "calibration": {"calibration", "engines", "deploy"},
    "pipeline": {"pipeline", "calibration", "engines", "deploy"},
}
SOURCES = sorted(path for room in MAY_IMPORT for path in (ROOT / room).rglob("*.py"))
MOST_MODULES, MOST_LINES, MOST_PARAMETERS = 15, 80, 7
QUESTIONS = ("What", "How", "Which", "Whether", "Where", "When", "Why", "From", "Whatever", "Whoever")
# Functions with more parameters than that, and the reason.
MANY_PARAMETERS = {
    "engines/stage.py:run_stage": "they are the fields of a stage's record",
    "deploy/runtime/detector.py:__init__": "they are the options of the public interface",
}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def functions(path: Path):
    """The functions of a file, with their qualified names."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield f"{name_of(path)}:{node.name}", node


def body_lines(node: ast.FunctionDef) -> int:
    """A function's lines without its docstring."""
    docstring = node.body[0] if ast.get_docstring(node) else None
    length = (node.end_lineno or 0) - node.lineno + 1
    return length - ((docstring.end_lineno or 0) - docstring.lineno + 1 if docstring else 0)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_point_one_way(path):
    room = path.relative_to(ROOT).parts[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        modules = [name.name for name in node.names] if isinstance(node, ast.Import) else []
        modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for module in modules:
            top, *rest = module.split(".")
            if top == "effedge" and rest:
                assert rest[0] in MAY_IMPORT[room], f"line {node.lineno} imports {module}"
            assert top != "torch" or room == "pipeline", f"line {node.lineno} imports torch"


def test_no_folder_is_full():
    counts = Counter(path.parent for path in SOURCES if path.name != "__init__.py")
    assert {name_of(folder): count for folder, count in counts.items() if count > MOST_MODULES} == {}


@pytest.mark.parametrize("path", [path for path in SOURCES if path.read_text().strip()], ids=name_of)
def test_a_docstring_says_what_the_module_does(path):
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    first = docstring.split("\n")[0]
    assert first, "it has no docstring"
    assert first.split()[0] not in QUESTIONS, f"it begins with a question word: {first}"
    assert "picture" not in path.read_text(encoding="utf-8").lower(), "an image is called an image"


def test_functions_have_few_parameters():
    found = {}
    for path in SOURCES:
        for name, node in functions(path):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            count = len([each for each in arguments if each.arg not in ("self", "cls")])
            if count > MOST_PARAMETERS:
                found[name] = count
    assert {name: count for name, count in found.items() if name not in MANY_PARAMETERS} == {}
    assert set(MANY_PARAMETERS) <= set(found), "a reason is given for a function that has few parameters"


def test_functions_are_short():
    assert {name: body_lines(node) for path in SOURCES for name, node in functions(path)
            if body_lines(node) > MOST_LINES} == {}  # fmt: skip


def test_only_commands_print():
    """Whatever computes has its messages logged; a `main`, and the modules that show something as it comes, print."""
    printing = {}
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        has_main = any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body)
        calls = [
            node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
        ]
        if calls and not has_main:
            printing[name_of(path)] = len(calls)
    assert printing.keys() <= {
        "deploy/common/cli.py",  # errors
        "deploy/common/messages.py",
        "deploy/video/predict_video.py", "deploy/video/progress.py", "deploy/video/frame_reader.py",  # as frames come
        "deploy/runtime/tensorrt/log.py", "engines/tensorrt/log.py",  # into build.log
        "pipeline/datasets/problems.py",  # an error a line
        "pipeline/reports/accuracy/measure.py",  # progress
    }, printing  # fmt: skip
