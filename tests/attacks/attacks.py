"""What is an attack, and what comes of it? The tables are read, bytes are sent, and what arrives is written down."""

import dataclasses
import pathlib
import re
import socket
import socketserver
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
KINDS = ["smuggling", "chunks", "syntax", "targets", "hops"]
# What follows each attack: is it answered too?
BEHIND = "GET /behind HTTP/1.1¶Host: HOST¶¶"
QUIET = 0.7


@dataclasses.dataclass
class Attack:
    kind: str
    name: str
    sent: str
    inbound: str
    outbound: str | None
    because: str


def table():
    """Every attack, in the order of the files."""
    attacks = []
    for kind in KINDS:
        for block in (HERE / f"{kind}.txt").read_text().split("\n\n"):
            lines = [line for line in block.splitlines() if line and not line.startswith("#")]
            if not lines:
                continue
            fields = {line[2:12].strip(): line[12:] for line in lines[1:]}
            outbound = fields.get("outbound", fields["inbound"])
            attacks.append(Attack(kind, lines[0], fields["sent"], fields["inbound"],
                                  None if outbound == "-" else outbound, fields.get("because", "")))
    return attacks


def on_the_wire(text, host):
    """The notation as bytes: `¶` is CRLF, `HOST` the host that is meant, `<x*3>` is `xxx`, and escapes as in C."""
    text = re.sub(r"<(.*?)\*(\d+)>", lambda m: m[1] * int(m[2]), text)
    text = text.replace("¶", "\r\n").replace("HOST", host)
    escapes = {"n": "\n", "r": "\r", "t": "\t", "0": "\0", "\\": "\\"}
    text = re.sub(r"\\(x[0-9a-f]{2}|[nrt0\\])", lambda m: escapes.get(m[1]) or chr(int(m[1][1:], 16)), text)
    return text.encode("latin-1")


def written(data):
    """Bytes in that notation."""
    text = data.decode("latin-1").replace("\\", "\\\\").replace("\r\n", "¶")
    names = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\0": "\\0"}
    return re.sub(r"[^ -~¶]", lambda m: names.get(m[0]) or f"\\x{ord(m[0]):02x}", text)


class Upstream(socketserver.ThreadingTCPServer):
    """Answers 200 to each request, as the most forgiving of servers would find its end."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self):
        self.requests, self.rest, self.busy = [], [], 0
        super().__init__(("127.0.0.1", 0), Conversation)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def port(self):
        return self.server_address[1]

    def take(self):
        deadline = time.monotonic() + 1
        while self.busy > 0 and time.monotonic() < deadline:
            time.sleep(0.001)
        seen = (self.requests, self.rest)
        self.requests, self.rest = [], []
        return seen


class Conversation(socketserver.BaseRequestHandler):
    def handle(self):
        data = b""
        while True:
            try:
                some = self.request.recv(65536)
            except OSError:
                some = b""
            self.server.busy -= bool(data)
            data += some
            if not some:
                if data:
                    self.server.rest.append(data)
                return
            while length := whole(data):
                self.server.requests.append(data[:length])
                body = b"" if data.startswith(b"HEAD ") else b"ok"
                data = data[length:]
                try:
                    self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + body)
                except OSError:
                    return
            self.server.busy += bool(data)


def whole(data):
    """The length of the first request, if all of it is there."""
    head, end, rest = data.partition(b"\r\n\r\n")
    if not end:
        return 0
    fields = head.lower()
    if re.search(rb"\r\ntransfer-encoding:[^\r]*chunked", fields):
        last = re.search(rb"(?:^|\r\n)0+[^\r\n]*\r\n(?:[^\r\n]+\r\n)*\r\n", rest)
        return len(head) + 4 + last.end() if last else 0
    length = re.search(rb"\r\ncontent-length: *(\d+)", fields)
    length = int(length[1]) if length else 0
    return len(head) + 4 + length if len(rest) >= length else 0


def talk(address, data, quiet=QUIET):
    """All answers: status and reason of each, and whether the server closed the connection of itself."""
    heard, ended, closed = b"", False, False
    with socket.create_connection(address) as stream:
        stream.settimeout(quiet)
        try:
            stream.sendall(data)
        except OSError:
            pass
        while True:
            try:
                some = stream.recv(65536)
            except TimeoutError:
                if ended:
                    break
                ended = True
                try:
                    stream.shutdown(socket.SHUT_WR)
                except OSError:
                    pass
                continue
            except OSError:
                some = b""
            if not some:
                closed = not ended
                break
            heard += some
            if len(answers(heard, data)) >= 2:
                break
    return answers(heard, data), closed


def answers(heard, data):
    found = []
    while match := re.match(rb"HTTP/1\.[01] (\d{3})", heard):
        head, end, rest = heard.partition(b"\r\n\r\n")
        if not end:
            break
        status, fields = int(match[1]), head.lower()
        length = re.search(rb"\r\ncontent-length: *(\d+)", fields)
        if data.startswith(b"HEAD ") and not found or status < 200 or status in (204, 304):
            body = 0
        elif b"\r\ntransfer-encoding:" in fields:
            last = re.search(rb"(?:^|\r\n)0\r\n\r\n", rest)
            body = last.end() if last else len(rest) + 1
        else:
            body = int(length[1]) if length else len(rest)
        if len(rest) < body:
            break
        reason = re.search(rb"\r\nx-countersign-reason: *([^\r]+)", fields)
        if status >= 200:
            found.append((status, reason[1].decode() if reason else ""))
        heard = rest[body:]
    return found
