"""Lists the types that a trainer's file may hold beside tensors, and turns their values into plain Python.

`torch.load(weights_only=True)` refuses every class that it does not know. The classes here are harmless: NumPy's
numbers and arrays of numbers, argparse's Namespace (timm's and effdet's `args`), and the containers in which others
keep hyper-parameters (Lightning, OmegaConf, yacs). The containers' packages need not be installed, and none of their
code runs: a stand-in that only holds what the file says takes the place of the class.
"""

from __future__ import annotations

import argparse
from collections import OrderedDict
from collections.abc import Mapping

import numpy as np
from torch import Tensor

MOST_NESTED = 12  # containers inside containers; a file that nests deeper holds no hyper-parameters there


class StandIn:
    """Stands in for a class of a package: takes any arguments, and keeps the attributes that the file has."""

    def __init__(self, *arguments: object) -> None:
        pass


class PathText(str):
    """Stands in for a pathlib path: its text."""

    def __new__(cls, *parts: str) -> PathText:
        return super().__new__(cls, "/".join(map(str, parts)))


def empty_dict(*arguments: object) -> OrderedDict[object, object]:
    """Stands in for collections.defaultdict, whose first argument is a function."""
    return OrderedDict()


DICTIONARIES = (
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
    "yacs.config.CfgNode",
    "easydict.EasyDict",
    "addict.addict.Dict",
    "builtins.dict",
)
STAND_INS = (
    *(f"omegaconf.{name}" for name in ("dictconfig.DictConfig", "listconfig.ListConfig", "tupleconfig.TupleConfig")),
    *(f"omegaconf.base.{name}" for name in ("Metadata", "ContainerMetadata")),
    *(f"omegaconf.nodes.{name}Node" for name in ("Any", "Boolean", "Float", "Integer", "String", "Bytes", "Path")),
    *(f"typing.{name}" for name in ("Any", "Dict", "List", "Optional", "Tuple", "Union")),
    "builtins.Ellipsis",
    "_operator.getitem",  # of typing's Tuple[int, ...]
)
NUMPY_NAMES = ("numpy.core.multiarray", "numpy._core.multiarray")  # before NumPy 2, and since
NUMBERS = "?bhilqBHILQefdFD"

SAFE_TYPES = [
    argparse.Namespace,
    *((OrderedDict, name) for name in DICTIONARIES),
    *((StandIn, name) for name in STAND_INS),
    (empty_dict, "collections.defaultdict"),
    *((PathText, f"pathlib.{name}") for name in ("Path", "PosixPath", "WindowsPath", "PurePosixPath")),
    *((PathText, f"pathlib._local.{name}") for name in ("Path", "PosixPath", "WindowsPath", "PurePosixPath")),
    *((kind, f"builtins.{kind.__name__}") for kind in (int, float, bool, str, list, tuple)),
    np.dtype,
    *{type(np.dtype(code)) for code in NUMBERS},
    np.ndarray,
    *((np._core.multiarray.scalar, f"{name}.scalar") for name in NUMPY_NAMES),  # type: ignore[attr-defined]
    *((np._core.multiarray._reconstruct, f"{name}._reconstruct") for name in NUMPY_NAMES),  # type: ignore[attr-defined]
]


def plain(value: object, depth: int = 0) -> object:
    """Converts a value of the file to dicts, lists, tensors, numbers and texts; what is none of them becomes None."""
    if depth > MOST_NESTED:
        return None
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Tensor | str | int | float | bool):
        return value
    if isinstance(value, argparse.Namespace):
        return plain(vars(value), depth)
    if isinstance(value, StandIn):
        held = vars(value)  # OmegaConf's containers, and its leaves
        return plain(held.get("_content", held.get("_val")), depth + 1)
    if isinstance(value, Mapping):
        return {str(key): plain(each, depth + 1) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each, depth + 1) for each in value]
    return None
