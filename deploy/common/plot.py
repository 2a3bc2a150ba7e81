"""Writes matplotlib figures to files. A device need not have matplotlib."""

import contextlib
from pathlib import Path
from typing import Any, Iterator

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.files import atomic_file


def check_plot_path(path: Path) -> None:
    """Raises UserError if matplotlib is missing or does not know the format. To be called before the work."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(f"to draw '{path}' matplotlib is needed: pip install matplotlib ({error})") from error
    suffixes = FigureCanvasAgg(Figure()).get_supported_filetypes()
    if path.suffix[1:].lower() not in suffixes:
        raise UserError(f"'{path}' is of no kind that can be drawn: expected a name that ends in {', '.join(suffixes)}")


@contextlib.contextmanager
def figure_at(path: Path, width: float, height: float) -> Iterator[Any]:
    """Yields a matplotlib Figure of this size in inches; draws it to `path` after the block, in the suffix's format.

    Raises UserError as `check_plot_path` does.
    """
    check_plot_path(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    yield figure
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=120)
