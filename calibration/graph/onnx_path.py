"""Checks the path of an ONNX file, before anything that takes time to import is."""

from __future__ import annotations

from pathlib import Path

from effedge.deploy.common.cli import UserError


def check_is_file(path: Path) -> None:
    """Raises a UserError if there is no file at `path`."""
    if not path.is_file():
        raise UserError(
            f"no ONNX file at '{path}': expected one made by effedge.pipeline.export.simplify or any other exporter"
        )
