"""A matplotlib figure that becomes a file; a device need not have matplotlib."""

import contextlib
from pathlib import Path
from typing import Any, Iterator

from effedge.deploy.common.cli import UserError
from effedge.deploy.common.files import whole_file


def check_drawable(path: Path) -> None:
    """UserError if matplotlib is missing or does not know the format: better now than after the work."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(f"to draw '{path}' matplotlib is needed: pip install matplotlib ({error})") from error
    known = FigureCanvasAgg(Figure()).get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise UserError(f"'{path}' is of no kind that can be drawn: expected a name that ends in {', '.join(known)}")


@contextlib.contextmanager
def figure_at(path: Path, width: float, height: float) -> Iterator[Any]:
    """Yield a matplotlib Figure of so many inches; it is drawn to `path` at the end, in the format of the suffix.

    Raises UserError as `check_drawable`.
    """
    check_drawable(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    yield figure
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=120)
