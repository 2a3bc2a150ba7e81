"""Answers with the demo's page, and with its sample images.

The page is one file of HTML with a style sheet and a script beside it; it loads nothing from elsewhere, and its
Content-Security-Policy keeps it so.
"""

from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from effedge.deploy.common.cli import UserError
from effedge.deploy.image.files import list_images
from effedge.deploy.serving.refusal import Refusal

PAGE = Path(__file__).parent / "page"
SAMPLES = PAGE / "samples"
TYPES = {
    ".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}  # fmt: skip
FILES = {"/": "index.html", **{f"/{name}": name for name in ("demo.css", "demo.js", "webcam.js", "icon.svg")}}
# The sources of everything the page may load: itself, and images that it made itself. No script in the HTML.
POLICY = "; ".join(
    [
        "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self' blob:", "connect-src 'self'",
        "media-src blob:", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
    ]
)  # fmt: skip
HEADERS = {"Content-Security-Policy": POLICY, "Permissions-Policy": "camera=(self), microphone=(), geolocation=()"}
MOST_SAMPLES = 24
SHOWN_BY_BROWSERS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".bmp", ".avif")


def page_routes(models: Sequence[Dict[str, Any]], samples: Sequence[Path], body_bytes: int) -> List[Route]:
    """Makes the routes of the page; `models` are the facts of each engine, `samples` the images to choose from."""

    async def describe(_: Request) -> Response:
        names = [{"name": path.name, "url": f"/samples/{number}"} for number, path in enumerate(samples)]
        return JSONResponse({"models": list(models), "samples": names, "body_bytes": body_bytes})

    async def sample(request: Request) -> Response:
        number = int(request.path_params["number"])
        if number >= len(samples) or not samples[number].is_file():
            raise Refusal(404, f"there is no sample {number}")
        return FileResponse(samples[number])

    routes = [Route("/demo.json", describe), Route("/samples/{number:int}", sample)]
    return [*(Route(path, page_file(PAGE / name)) for path, name in FILES.items()), *routes]


def page_file(path: Path) -> Any:
    """Returns the endpoint of a file of the page."""
    content = path.read_bytes()

    async def endpoint(_: Request) -> Response:
        return Response(content, headers={"Content-Type": TYPES[path.suffix], **HEADERS})

    return endpoint


def find_samples(folder: Optional[Path]) -> List[Path]:
    """Returns the sample images of a folder, or those of effedge. Raises UserError for a folder without images that a
    browser shows."""
    images = [path for path in list_images(folder or SAMPLES) if path.suffix.lower() in SHOWN_BY_BROWSERS]
    if not images:
        raise UserError(f"no images in '{folder}' that browsers show: expected JPEG, PNG, GIF, WebP, BMP or AVIF")
    return images[:MOST_SAMPLES]
