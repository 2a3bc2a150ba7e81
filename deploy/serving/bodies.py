"""Reads the bodies of requests, within limits. What is left of a refused request's body uvicorn reads and drops."""

import asyncio
from typing import List

from starlette.requests import Request

from effedge.deploy.serving.refusal import Refusal


async def read_body(request: Request, most: int, seconds: float) -> bytes:
    """Reads a request's body. Raises Refusal: 413 for more than `most` bytes, 408 if it takes longer than `seconds`,
    400 if the client goes away."""
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > most:
        raise too_large(most)
    try:
        return await asyncio.wait_for(read_chunks(request, most), seconds)
    except asyncio.TimeoutError as error:
        raise Refusal(408, f"the body did not come within {seconds:g} s") from error


async def read_chunks(request: Request, most: int) -> bytes:
    """Reads the chunks of a body."""
    chunks: List[bytes] = []
    size = 0
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise Refusal(400, "the client went away before the end of its request")
        size += len(message.get("body", b""))
        if size > most:
            raise too_large(most)
        chunks.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(chunks)


def too_large(most: int) -> Refusal:
    """Returns the refusal of a body that is too large."""
    return Refusal(413, f"the body has more than {most / (1 << 20):g} MiB: scale the image down")


async def wait_for_disconnect(request: Request) -> None:
    """Waits until the client goes away; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
