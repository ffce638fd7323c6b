"""A proxy between a client and the server, which cuts connections at chosen moments."""

import dataclasses
import socket
import struct
import threading
import time

import wire
from server import LIMIT


@dataclasses.dataclass
class Attempt:
    """A request that the client sent, and the response that the server gave."""

    arrived: float
    request: wire.Message
    response: wire.Message | None = None
    answered: float = 0.0


def pass_on(proxy, attempt, client):
    """The client gets the whole response."""
    proxy.forward(attempt)
    client.sendall(attempt.response.bytes)
    return True


def lose_request(_proxy, _attempt, client):
    """The request never reaches the server, and the connection is closed."""
    close(client)


def reset_request(_proxy, _attempt, client):
    """The request never reaches the server, and the connection is reset."""
    reset(client)


def lose_answer(proxy, attempt, client):
    """The server has answered, and the connection is closed before the first byte of the response."""
    proxy.forward(attempt)
    close(client)


def reset_answer(proxy, attempt, client):
    """The server has answered, and the connection is reset before the first byte of the response."""
    proxy.forward(attempt)
    reset(client)


def halve_answer(proxy, attempt, client):
    """The connection is closed in the middle of the response's body."""
    proxy.forward(attempt)
    whole = attempt.response.bytes
    client.sendall(whole[: len(whole) - len(attempt.response.sent_body) // 2])
    close(client)


def leave_running(proxy, attempt, client):
    """The connections on both sides are closed while the operation runs."""
    with socket.create_connection(proxy.server.address, timeout=LIMIT) as upstream:
        upstream.sendall(attempt.request.bytes)
        proxy.server.wait_for_run(proxy.key)
    close(client)


def hold_answer(proxy, attempt, client):
    """The server has answered, and the client hears nothing until it gives up and closes the connection."""
    proxy.forward(attempt)
    wire.Reader(client).wait_for_close()


def let_same_run(proxy, attempt, client):
    """The same request is already running when the client's request reaches the server."""
    proxy.server.begin(attempt.request, proxy.key)
    return pass_on(proxy, attempt, client)


def let_other_run(proxy, attempt, client):
    """Another operation is already running when the client's request reaches the server."""
    path, key = attempt.request.start[1].encode(), proxy.key.encode()
    head = attempt.request.head.replace(b" " + path + b" ", b" /slow?ms=700 ", 1).replace(key, b"other-" + key, 1)
    proxy.server.begin(dataclasses.replace(attempt.request, head=head), "other-" + proxy.key)
    return pass_on(proxy, attempt, client)


def use_key_before(proxy, attempt, client):
    """Another request has already used the key when the client's request reaches the server."""
    proxy.server.send(dataclasses.replace(attempt.request, sent_body=attempt.request.sent_body.replace(b"100", b"999")))
    return pass_on(proxy, attempt, client)


def close(connection):
    connection.shutdown(socket.SHUT_RDWR)


def reset(connection):
    """With a linger time of 0, closing sends RST in place of FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Proxy:
    """Applies a list of cuts to the client's first requests. The requests after them pass."""

    def __init__(self, server, key, cuts):
        self.server, self.key, self.cuts = server, key, list(cuts)
        self.attempts, self.faults = [], []
        self.lock = threading.Lock()
        # Connections to a port that is bound and not open are refused.
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.is_open = False

    def open(self):
        self.listener.listen()
        self.is_open = True
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self):
        return "http://127.0.0.1:%d" % self.listener.getsockname()[1]

    def forward(self, attempt):
        attempt.response = self.server.send(attempt.request)
        attempt.answered = time.monotonic()

    def stop(self):
        if self.is_open:
            # `shutdown` wakes the thread that accepts.
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client):
        with client:
            client.settimeout(LIMIT)
            reader = wire.Reader(client)
            while True:
                try:
                    request = reader.message()
                except wire.Closed:
                    return
                attempt = Attempt(time.monotonic(), request)
                with self.lock:
                    cut = self.cuts[len(self.attempts)] if len(self.attempts) < len(self.cuts) else pass_on
                    self.attempts.append(attempt)
                try:
                    if not cut(self, attempt, client):
                        return
                except (OSError, wire.Closed, TimeoutError) as error:
                    self.faults.append(f"{cut.__name__}: {error!r}")
                    return
