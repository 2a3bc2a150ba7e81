"""Guards a service that a browser on the same machine can reach, and counts its requests: an ASGI middleware.

1. DNS rebinding: a page of evil.example, whose name an attacker points at 127.0.0.1, is of the same origin as the
   service then, and could read its answers. Its requests still have evil.example in their header Host. So a Host is
   refused unless it is an IP address, localhost, this machine's name, or a name that was given (400).
2. Requests of other origins' pages: a browser sends a POST to any address, though the page cannot read the answer. A
   request whose header Origin is not its Host is refused (403).
3. Each answer has headers that keep browsers from taking it for another type, and from keeping it.
"""

import asyncio
import ipaddress
import json
import socket
import time
from typing import Any, Awaitable, Callable, Dict, Iterable, Iterator, List, MutableMapping, Tuple

from effedge.deploy.serving.metrics import Metrics
from effedge.deploy.serving.refusal import Refusal

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"cache-control": b"no-store",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
}
UNKNOWN = "other"  # the path, in the metrics, of requests that no route takes
ANY = "*"


class Guard:
    """The middleware of this module's docstring around an app.

    Attributes:
        cut: the number of requests that the end of the service cut off.
    """

    def __init__(self, app: App, metrics: Metrics, hosts: Iterable[str] = ()) -> None:
        """Guards `app`; `hosts` are names that clients may call the service by, or "*" for any."""
        self.app, self.metrics, self.cut = app, metrics, 0
        own = socket.gethostname().lower()
        self.hosts = {"localhost", own, f"{own}.local", *(name.lower() for name in hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started = time.perf_counter()
        status = 500

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = list(message.get("headers", []))
                message["headers"] = headers + [pair for pair in HEADERS.items() if pair[0] not in dict(headers)]
            await send(message)

        try:
            self.check(scope)
            await self.app(scope, receive, send_guarded)
        except Refusal as refusal:
            await send_refusal(refusal, send_guarded)
        except asyncio.CancelledError:
            self.cut += 1
            raise
        finally:
            route = scope.get("effedge.path", UNKNOWN)
            self.metrics.count_request(route, status, time.perf_counter() - started)

    def check(self, scope: Scope) -> None:
        """Raises Refusal for a Host or an Origin that cases 1 and 2 refuse."""
        headers: Dict[bytes, bytes] = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if ANY not in self.hosts and not self.knows(host_name(host)):
            raise Refusal(400, f"the header Host is '{host:.80}', which is no name of this service: see --allow-host")
        origin = headers.get(b"origin")
        if origin is not None and origin.decode("latin-1").lower().split("://")[-1] != host:
            raise Refusal(403, "the request is of another origin's page, which this service does not answer")

    def knows(self, name: str) -> bool:
        """Tells if a host's name is an IP address or a name of the service."""
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self.hosts or name.endswith(".localhost")
        return True


def host_name(host: str) -> str:
    """Returns the name in a header Host, without the port and the brackets of an IPv6 address."""
    if host.startswith("["):
        return host[1:].split("]")[0]
    return host.rsplit(":", 1)[0] if ":" in host else host


def refusal_headers(refusal: Refusal) -> Iterator[Tuple[str, str]]:
    """Yields the headers of a refusal's answer."""
    yield "content-type", "application/json"
    if refusal.retry_after is not None:
        yield "retry-after", str(refusal.retry_after)


async def send_refusal(refusal: Refusal, send: Send) -> None:
    """Sends a refusal as an answer, in the form of KServe's v2 protocol."""
    headers: List[Tuple[bytes, bytes]] = [(name.encode(), value.encode()) for name, value in refusal_headers(refusal)]
    body = json.dumps({"error": str(refusal)}).encode()
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
