"""deploy/ runs on a device: Python 3.8, NumPy, Pillow and one backend, nothing of the host's side. So does engines/,
which builds there."""

import ast
import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "deploy").rglob("*.py"))
ENGINES = [*sorted((ROOT / "engines").rglob("*.py")), *sorted((ROOT / "effedge").glob("*.py"))]
# Everything that deploy/ may import beside the standard library and itself.
THIRD_PARTY = {"numpy", "PIL", "openvino", "onnxruntime", "pycuda", "tensorrt"}
# Of the standard library since 3.9, and methods since 3.9, in the forms that are likely here.
NEW_MODULES = {"graphlib", "tomllib", "zoneinfo", "compression", "annotationlib"}
NEW_NAMES = {
    "removeprefix",
    "removesuffix",
    "is_relative_to",
    "with_stem",
    "readlink",
    "hardlink_to",
    "walk",
    "pairwise",
    "batched",
    "bit_count",
    "file_digest",
    "to_thread",
    "lcm",
    "nextafter",
    "randbytes",
}
NEW_KEYWORDS = {"zip": {"strict"}, "dataclass": {"slots", "kw_only"}, "glob": {"root_dir"}, "open_text": {"errors"}}
GENERICS = {"list", "dict", "tuple", "set", "frozenset", "type", "Counter", "OrderedDict", "deque", "partial"}


# For who wants a plot, tests on the device, video, an NVIDIA driver's figures, or a service.
OPTIONAL = {
    "plot.py": {"matplotlib"},
    "pytest_latency.py": {"pytest"},
    "source.py": {"cv2"},  # of video
    "messages.py": {"tqdm"},
    "cli.py": {"argcomplete"},
    "gpu_facts.py": {"pynvml"},
    "signature.py": {"cryptography"},
    "app.py": {"starlette"},  # of serving, as those below
    "bodies.py": {"starlette"},
    "pages.py": {"starlette"},
    "metrics.py": {"prometheus_client"},
    "server.py": {"uvicorn"},
}


def tree(source):
    return ast.parse(source.read_text(encoding="utf-8"), filename=str(source), feature_version=(3, 8))


def imports(source):
    for node in ast.walk(tree(source)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            yield node.module


def name_of(node):
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", None)


def too_new(source):
    """What would fail in Python 3.8 though it parses there: (line, what)."""
    module = tree(source)
    lazy = any(isinstance(n, ast.ImportFrom) and n.module == "__future__" for n in module.body)  # annotations
    annotations = set()
    for node in ast.walk(module):
        for field in ("annotation", "returns"):
            if getattr(node, field, None) is not None:
                annotations.update(id(part) for part in ast.walk(getattr(node, field)))
    for node in ast.walk(module):
        evaluated = not (lazy and id(node) in annotations)
        if isinstance(node, ast.Subscript) and name_of(node.value) in GENERICS and evaluated:
            yield node.lineno, f"{name_of(node.value)}[...] is of 3.9"
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr) and evaluated:
            union = id(node) in annotations or isinstance(node.left, ast.Dict) or isinstance(node.right, ast.Dict)
            if union or ast.dump(node.right) == ast.dump(ast.Constant(None)):
                yield node.lineno, "X | Y of types is of 3.10, of dicts 3.9"
        if isinstance(node, ast.Attribute) and node.attr in NEW_NAMES and name_of(node.value) != "os":  # os.readlink
            yield node.lineno, f".{node.attr} is of 3.9 or later"
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                if keyword.arg in NEW_KEYWORDS.get(name_of(node.func), ()):
                    yield node.lineno, f"{name_of(node.func)}({keyword.arg}=) is of 3.9 or later"
        if isinstance(node, ast.ImportFrom) and node.module == "collections.abc":
            yield node.lineno, "collections.abc's classes take [...] from 3.9 on: use typing's"
        if isinstance(node, (ast.With, ast.AsyncWith)) and "with (" in ast.unparse(node).splitlines()[0]:
            yield node.lineno, "with (...) is of 3.9"
        for decorator in getattr(node, "decorator_list", ()):
            if name_of(decorator) == "cache":
                yield node.lineno, "functools.cache is of 3.9"


def test_there_is_something_to_check():
    assert len(SOURCES) >= 12


@pytest.mark.parametrize("source", SOURCES + ENGINES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_valid_for_python_3_8(source):
    compile(tree(source), str(source), "exec")
    if sys.version_info >= (3, 9):  # ast.unparse is of 3.9; on 3.8 running the tests is the check
        assert list(too_new(source)) == []


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_imports_only_what_a_device_has(source):
    standard = getattr(sys, "stdlib_module_names", None)
    for name in imports(source):
        top, *rest = name.split(".")
        if top == "effedge":
            assert rest and rest[0] == "deploy"
            continue
        assert top not in {"torch", "onnx", "onnx_ir"} | NEW_MODULES
        if top not in THIRD_PARTY | OPTIONAL.get(source.name, set()) and standard is not None:
            assert top in standard


@pytest.mark.parametrize(
    "line",
    [
        "def f(a: list[int]): ...",
        "x: dict[str, int] = {}",
        "def f() -> int | None: ...",
        "Alias = tuple[int, int]",
        "both = {} | other",
        "name.removeprefix('a')",
        "zip(a, b, strict=True)",
        "from collections.abc import Callable",
        "@functools.cache\ndef f(): ...",
    ],
)
@pytest.mark.skipif(sys.version_info < (3, 9), reason="the check itself needs 3.9")
def test_the_check_finds_what_is_too_new(tmp_path, line):
    (tmp_path / "new.py").write_text(line + "\n")
    assert list(too_new(tmp_path / "new.py"))


@pytest.mark.skipif(sys.version_info < (3, 9), reason="the check itself needs 3.9")
def test_the_check_lets_lazy_annotations_and_numbers_pass(tmp_path):
    (tmp_path / "old.py").write_text("from __future__ import annotations\ndef f(a: list[int] | None): return 1 | 2\n")
    assert list(too_new(tmp_path / "old.py")) == []


@pytest.mark.parametrize("line", ["match x:\n    case 1: pass"])
def test_newer_syntax_does_not_parse(tmp_path, line):
    (tmp_path / "new.py").write_text(line + "\n")
    with pytest.raises(SyntaxError):
        tree(tmp_path / "new.py")


def test_the_names_are_lazy_but_there():
    spec = importlib.util.find_spec("effedge")
    assert spec is not None
    import effedge

    assert {"Detector", "Classifier", "Runner", "Detections", "UserError"} <= set(effedge.__all__) <= set(dir(effedge))
    with pytest.raises(AttributeError, match="Detektor"):
        effedge.Detektor  # noqa: B018
