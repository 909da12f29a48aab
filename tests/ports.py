"""A port for processes that are to meet."""

from __future__ import annotations

import random
import socket

OURS = range(20_000, 30_000)  # below those that the system gives to whoever connects, so that nobody takes it meanwhile


def free_port() -> int:
    """One on which nobody listens; other test processes most likely have another."""
    draw = random.SystemRandom()
    while True:
        port = draw.choice(OURS)
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
