"""HTTP/1.1 messages as bytes, for the proxy and for requests that the test sends itself."""

import dataclasses
import socket


class Closed(Exception):
    """The peer closed the connection."""


@dataclasses.dataclass
class Message:
    """A request or a response, with the bytes that it had on the wire."""

    head: bytes
    # The body as it was sent, with the marks of chunks where it has them.
    sent_body: bytes
    # The body without the marks of chunks.
    body: bytes

    @property
    def start(self):
        """The words of the first line."""
        return self.head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)

    @property
    def status(self):
        return int(self.start[1])

    @property
    def headers(self):
        """Values by the name in lower case. Of several lines with one name, the last counts."""
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        pairs = (line.split(":", 1) for line in lines if ":" in line)
        return {name.strip().lower(): value.strip() for name, value in pairs}

    @property
    def bytes(self):
        return self.head + self.sent_body


class Reader:
    """Reads messages from a socket."""

    def __init__(self, connection):
        self.connection = connection
        self.buffer = b""

    def _more(self):
        try:
            piece = self.connection.recv(65536)
        except (ConnectionError, socket.timeout) as error:
            raise Closed from error
        if not piece:
            raise Closed
        self.buffer += piece

    def _until(self, mark):
        while mark not in self.buffer:
            self._more()
        end = self.buffer.index(mark) + len(mark)
        taken, self.buffer = self.buffer[:end], self.buffer[end:]
        return taken

    def _exactly(self, length):
        while len(self.buffer) < length:
            self._more()
        taken, self.buffer = self.buffer[:length], self.buffer[length:]
        return taken

    def message(self, answers=None):
        """The next message. `answers` is the method of the request that the message answers, if it is a response."""
        message = Message(self._until(b"\r\n\r\n"), b"", b"")
        if answers is not None and (answers == "HEAD" or message.status in (204, 304) or message.status < 200):
            return message
        headers = message.headers
        if headers.get("transfer-encoding", "").lower() == "chunked":
            while True:
                line = self._until(b"\r\n")
                size = int(line.split(b";")[0], 16)
                piece = self._exactly(size + 2)
                message.sent_body += line + piece
                message.body += piece[:-2]
                if size == 0:
                    return message
        message.body = message.sent_body = self._exactly(int(headers.get("content-length", 0)))
        return message

    def wait_for_close(self):
        """Returns when the peer has closed the connection."""
        try:
            while True:
                self._more()
        except Closed:
            return


def exchange(address, request, limit):
    """Sends a request over a connection of its own, and returns the response."""
    with socket.create_connection(address, timeout=limit) as connection:
        connection.sendall(request.bytes)
        return Reader(connection).message(answers=request.start[0])
