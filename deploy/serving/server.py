"""Runs a service until a signal, with uvicorn.

The first signal of `effedge.deploy.common.cli.SIGNALS` ends it gracefully: nothing new is taken, what runs is finished.
The second does not wait for that.
"""

import contextlib
import logging
import math
import socket
import threading
from typing import Iterator, List

import uvicorn

from effedge.deploy.common.cli import UserError, handled_signals, interrupt
from effedge.deploy.common.messages import log
from effedge.deploy.serving.app import Service
from effedge.deploy.serving.guard import Guard

MOST_CONNECTIONS = 512  # idle ones too; each takes 64 KB at most until it has a place
LOCAL = ("127.0.0.1", "localhost", "::1")
POLL_SECONDS = 0.5
GRACE_SECONDS = 1.0  # for an answer to be sent
MOST_PORT = 65535


def listen(host: str, port: int) -> socket.socket:
    """Opens the socket of a service; port 0 is any free one. Clients are refused until `run_service`.

    Raises UserError where that is not possible.
    """
    if port > MOST_PORT:  # getaddrinfo takes it for another one
        raise UserError(f"cannot listen at port {port}: expected 0 to {MOST_PORT}")
    with explained(host, port):
        [(family, _, _, _, address), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    return listener


@contextlib.contextmanager
def explained(host: str, port: int) -> Iterator[None]:
    """Turns the errors of sockets within the block to UserErrors."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot listen at {host}, port {port}: {error.strerror}; choose another") from error


def address_of(listener: socket.socket) -> str:
    """Returns the URL of a socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def make_server(service: Service, app: Guard) -> uvicorn.Server:
    """Makes the server of an app."""
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=math.ceil(service.limits.seconds + GRACE_SECONDS),  # when every request has ended
    )
    return uvicorn.Server(config)


def run_service(service: Service, app: Guard, listener: socket.socket) -> None:
    """Runs a service until a signal. Raises UserError if requests had to be cut off."""
    with explained(*listener.getsockname()[:2]):  # another service may have bound it too, and listen first
        listener.listen()
    if listener.getsockname()[0] not in LOCAL:
        log.warning("warning: everybody who reaches this address may use the service: it has no passwords and no TLS")
    server = make_server(service, app)
    received: List[int] = []

    def stop(number: int) -> None:
        if received:
            logging.getLogger("uvicorn.error").disabled = True  # it would log each request that is cut off as a failure
            server.force_exit = True
            interrupt(number)
        received.append(number)
        service.admission.stopping = server.should_exit = True

    # uvicorn handles signals itself, and otherwise than effedge's commands, unless it runs in another thread.
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="server")
    with handled_signals(stop):
        thread.start()
        while thread.is_alive():
            thread.join(POLL_SECONDS)
    service.close()
    if app.cut:
        raise UserError(f"{app.cut} requests had not ended {service.limits.seconds:g} s later, and were cut off")
    if not received:
        raise UserError("the server ended by itself: see its messages above")
