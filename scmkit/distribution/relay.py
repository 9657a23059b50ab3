"""A relay to the coordinator, which hides its end: XLA kills a process whose connection to it closes.

The pulse then has the time to say who is gone, and to leave as a run that can be resumed.
"""

import contextlib
import socket
import threading

_CHUNK = 1 << 16


def relay(host: str, port: int) -> int:
    """The port on this machine from which every connection is passed on to `host` and `port`.

    When the far side of a connection closes, the near side stays open and silent.
    """
    listening = socket.create_server(("127.0.0.1", 0))
    _start(_serve, listening, host, port)
    return listening.getsockname()[1]


def _serve(listening: socket.socket, host: str, port: int) -> None:
    while True:
        near, _ = listening.accept()
        _start(_connect, near, host, port)


def _connect(near: socket.socket, host: str, port: int) -> None:
    try:
        far = socket.create_connection((host, port), timeout=20)
    except OSError:
        near.close()  # The coordinator has not started yet; whoever connects tries again.
        return
    far.settimeout(None)
    for side in (near, far):
        side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _start(_back, far, near)
    _forth(near, far)


def _forth(near: socket.socket, far: socket.socket) -> None:
    with near, far, contextlib.suppress(OSError):
        while data := near.recv(_CHUNK):
            with contextlib.suppress(OSError):
                far.sendall(data)


def _back(far: socket.socket, near: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := far.recv(_CHUNK):
            near.sendall(data)


def _start(function: object, *args: object) -> None:
    threading.Thread(target=function, args=args, daemon=True).start()  # pyright: ignore[reportArgumentType]
