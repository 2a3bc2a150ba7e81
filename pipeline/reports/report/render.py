"""Fills the HTML templates of this folder: page.html, which every page of effedge's is, and report.html.

Whatever is inserted is escaped: names of classes and paths are anybody's. A page has no scripts and loads nothing; its
policy (Content-Security-Policy) has the browser refuse both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

DASH, MINUS = "–", "−"


def render(name: str, values: dict[str, Any]) -> str:
    """Fills a template of this folder."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"points": points, "signed": signed, "share": share, "direction": direction}
    templates.globals |= {"zip": zip}
    return templates.get_template(name).render(values)


def points(value: float | None) -> str:
    """Formats a share as points.

    >>> points(0.7123), points(None)
    ('71.2', '–')
    """
    return DASH if value is None else f"{100 * value:.1f}"


def signed(value: float | None) -> str:
    """Formats a difference of shares as points with a sign; no sign where it rounds to nothing.

    >>> signed(-0.0123), signed(0.0002), signed(None)
    ('−1.2', '0.0', '–')
    """
    if value is None:
        return DASH
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", MINUS)


def direction(value: float | None) -> str:
    """Returns the style of a change: "worse", "better", or "" where it rounds to nothing.

    >>> direction(-0.01), direction(0.0001)
    ('worse', '')
    """
    text = signed(value)
    return "worse" if text.startswith(MINUS) else "better" if text.startswith("+") else ""


def share(value: float) -> str:
    """Formats a share in per cent.

    >>> share(0.95), share(0.004), share(1.0)
    ('95%', '0.4%', '100%')
    """
    return f"{100 * value:.0f}%" if value >= 0.1 else f"{100 * value:.1f}%"
