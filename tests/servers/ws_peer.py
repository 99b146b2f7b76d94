"""The second WebSocket peer of the interop tests (PyPI websockets): an echo server, and a client that sends frames byte by byte.

    python ws_peer.py serve
    python ws_peer.py cases URL [--dial HOST:PORT] [--deflate]

The server prints a line of JSON with its port when ready, and one with the target, code and reason of each `close`;
`/close?code=&reason=` has it close at once. The client runs every case on a connection of its own, with a target of its own, and
prints one line of JSON for each: what it heard until the end of the connection, whether that is what RFC 6455 demands, and whether
what was sent is no frame or no message (`odd`), of which servers may end in words of their own.
"""

import asyncio
import hashlib
import json
import os
import random
import socket
import sys
from urllib.parse import parse_qs, urlsplit

from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
BYE = ("close", 1000, "done")


def frame(opcode, data=b"", fin=True, reserved=0, masked=True):
    """A frame of a client, or what looks like one."""
    head = bytearray([fin << 7 | reserved << 4 | opcode])
    if len(data) < 126:
        head.append(masked << 7 | len(data))
    elif len(data) < 65536:
        head += bytes([masked << 7 | 126]) + len(data).to_bytes(2, "big")
    else:
        head += bytes([masked << 7 | 127]) + len(data).to_bytes(8, "big")
    if not masked:
        return bytes(head) + data
    key = os.urandom(4)
    pad = int.from_bytes((key * (len(data) // 4 + 1))[: len(data)], "big")
    return bytes(head) + key + (int.from_bytes(data, "big") ^ pad).to_bytes(len(data), "big")


def close(code, reason=""):
    return frame(CLOSE, code.to_bytes(2, "big") + reason.encode())


bye = close(1000, "done")


def brief(kind, data):
    """A message or a control frame, without its megabytes."""
    return f"{kind}:{len(data)}:{hashlib.sha256(data).hexdigest()[:16]}"


def pieces(data, size):
    """A text in frames of so many bytes."""
    parts = [data[at : at + size] for at in range(0, len(data), size)] or [b""]
    return [frame(TEXT if i == 0 else CONT, part, fin=i == len(parts) - 1) for i, part in enumerate(parts)]


def cases():
    """Name, path, what is sent (bytes, or a function of the protocol), what has to be heard, and is it odd?"""
    text = "grüß dich, Welt €𝄞 ".encode() * 20
    for kind, opcode in (("text", TEXT), ("binary", BINARY)):
        for size in (0, 1, 125, 126, 127, 65535, 65536, 1 << 20, 16 << 20):
            data = (b"abcdefg" if opcode == TEXT else bytes(range(256))) * (size // 7 + 1)
            data = data[:size]
            yield f"{kind} of {size}", "", [frame(opcode, data), bye], [brief(kind, data), BYE], False
    for size in (1, 2, 7, 126, len(text)):
        yield f"text in pieces of {size}", "", [*pieces(text, size), bye], [brief("text", text), BYE], False
    empty = [frame(TEXT, b"", fin=False), *[frame(CONT, b"", fin=False)] * 3, frame(CONT, b""), bye]
    yield "empty fragments", "", empty, [brief("text", b""), BYE], False
    *first, last = pieces(text, 50)
    pings = [part for piece in first for part in (piece, frame(PING, b"between"))]
    heard = [*[brief("pong", b"between")] * len(first), brief("text", text)]
    yield "pings between fragments", "", [*pings, last, bye], [*heard, BYE], False
    yield "a byte at a time", "", [*[bytes([b]) for b in frame(TEXT, b"slowly")], bye], [brief("text", b"slowly"), BYE], False
    for size in (0, 1, 125):
        yield f"a ping of {size}", "", [frame(PING, b"p" * size), bye], [brief("pong", b"p" * size), BYE], False
    ten = [frame(PING, bytes([i])) for i in range(10)]
    yield "ten pings", "", [*ten, bye], [*[brief("pong", bytes([i])) for i in range(10)], BYE], False
    yield "unsolicited pongs", "", [frame(PONG), frame(PONG, b"x" * 125), bye], [BYE], False
    many = [frame(TEXT, str(i).encode()) for i in range(500)]
    heard = [brief("text", str(i).encode()) for i in range(500)]
    yield "many in one segment", "", [b"".join(many), bye], [*heard, BYE], False

    for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999):
        yield f"close {code}", "", [close(code, "bye ü")], [("close", code, None)], False
        asked = f"/close?code={code}&reason=bye"
        yield f"closed {code}", asked, [], [("close", code, "bye")], False
    yield "a close of 123 bytes", "", [close(1000, "x" * 123)], [("close", 1000, None)], False
    yield "a close without a code", "", [frame(CLOSE)], [("close", None, None)], False
    yield "a message after a close", "", [bye, frame(TEXT, b"late")], [BYE], False
    yield "the end without a close", "", [frame(TEXT, b"hello"), "end"], [brief("text", b"hello")], False

    for code in (0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65535):
        yield f"close {code}", "", [close(code)], [("close", 1002, None)], True
    yield "a close of one byte", "", [frame(CLOSE, b"\x03")], [("close", 1002, None)], True
    bad = frame(CLOSE, b"\x03\xe8\xff\xfe")
    yield "a close in no UTF-8", "", [bad], [("close", (1007, 1002), None)], True
    for name, data in (("bad", b"\xce\xba\xff"), ("long", b"\xc0\xaf"), ("surrogate", b"\xed\xa0\x80"), ("cut", b"\xe2\x82")):
        yield f"text of {name} UTF-8", "", [frame(TEXT, data)], [("close", 1007, None)], True
    for opcode in (3, 7, 11, 15):
        yield f"opcode {opcode}", "", [frame(opcode, b"x")], [("close", 1002, None)], True
    for reserved in (1, 2, 4):
        yield f"reserved bit {reserved}", "", [frame(TEXT, b"x", reserved=reserved)], [("close", (1002, 1007), None)], True
    yield "a ping of 126", "", [frame(PING, b"x" * 126)], [("close", 1002, None)], True
    yield "a ping in two", "", [frame(PING, b"x", fin=False)], [("close", 1002, None)], True
    yield "a continuation of nothing", "", [frame(CONT, b"x")], [("close", 1002, None)], True
    yield "a message within another", "", [frame(TEXT, b"x", fin=False), frame(TEXT, b"y")], [("close", 1002, None)], True
    yield "no mask", "", [frame(TEXT, b"x", masked=False)], [("close", 1002, None)], True


def deflated():
    """The same in short, compressed: whole, in fragments, and with a server that may keep its window."""
    for size in (0, 1, 125, 126, 65536, 1 << 20, 16 << 20):
        for name, data in (("repeated", b"abcdefg" * (size // 7 + 1)), ("random", random.Random(size).randbytes(size))):
            data = data[:size]
            send = lambda protocol, data=data: protocol.send_binary(data)
            yield f"deflated {name} of {size}", "", [send, bye], [brief("binary", data), BYE], False
    parts = [b"one " * 100, b"two " * 100, b"three " * 100]

    def fragments(protocol):
        protocol.send_text(parts[0], fin=False)
        protocol.send_ping(b"between")
        protocol.send_continuation(parts[1], fin=False)
        protocol.send_continuation(parts[2], fin=True)

    heard = [brief("pong", b"between"), brief("text", b"".join(parts)), BYE]
    yield "deflated fragments", "", [fragments, bye], heard, False
    many = lambda protocol: [protocol.send_text(b"again and again") for _ in range(100)]
    yield "many deflated", "", [many, bye], [*[brief("text", b"again and again")] * 100, BYE], False
    yield "not deflated after all", "", [frame(TEXT, b"plain"), bye], [brief("text", b"plain"), BYE], False
    yield "no deflate stream", "", [frame(TEXT, b"\xff\xff\xff\xff", reserved=4)], [("close", None, None)], True
    yield "reserved bit 2", "", [frame(TEXT, b"x", reserved=2)], [("close", 1002, None)], True


class Connection:
    def __init__(self, url, dial, deflate):
        factory = ClientPerMessageDeflateFactory(client_max_window_bits=True)
        self.protocol = ClientProtocol(parse_uri(url), extensions=[factory] if deflate else None, max_size=None)
        self.socket = socket.create_connection(dial, timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.heard, self.kind, self.parts, self.reset = [], None, [], False
        self.protocol.send_request(self.protocol.connect())
        self.flush()
        while self.protocol.state is State.CONNECTING and self.receive():
            pass
        assert self.protocol.handshake_exc is None, self.protocol.handshake_exc
        assert not deflate or self.protocol.extensions, "the server does not compress"

    def flush(self):
        for data in self.protocol.data_to_send():
            try:
                if data:
                    self.socket.sendall(data)
                else:
                    self.socket.shutdown(socket.SHUT_WR)
            except OSError:
                self.reset = True

    def raw(self, data):
        try:
            self.socket.sendall(data)
        except OSError:
            self.reset = True

    def receive(self):
        try:
            data = self.socket.recv(1 << 20)
        except TimeoutError:
            self.heard.append("nothing for 30 s")
            return False
        except OSError:
            data = b""
        self.protocol.receive_data(data) if data else self.protocol.receive_eof()
        for event in self.protocol.events_received():
            self.note(event)
        self.flush()
        return bool(data)

    def note(self, event):
        opcode = getattr(event, "opcode", None)
        if opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            if opcode is not Opcode.CONT:
                self.kind, self.parts = opcode.name.lower(), []
            self.parts.append(bytes(event.data))
            if event.fin:
                self.heard.append(brief(self.kind, b"".join(self.parts)))
        elif opcode is Opcode.PONG:
            self.heard.append(brief("pong", bytes(event.data)))
        elif opcode is Opcode.CLOSE:
            data = bytes(event.data)
            code = int.from_bytes(data[:2], "big") if data else None
            self.heard.append(["close", code, data[2:].decode()])

    def run(self, steps, wanted):
        answers = sum(not isinstance(heard, tuple) for heard in wanted)
        for step in steps:
            if step in (bye, "end"):
                # A server may drop what it has not answered when it hears a close.
                while len(self.heard) < answers and self.receive():
                    pass
            if step == "end":
                self.socket.shutdown(socket.SHUT_WR)
            elif callable(step):
                step(self.protocol)
                self.flush()
            else:
                self.raw(step)
        while self.receive():
            pass
        self.socket.close()
        return self.heard


def fits(heard, wanted):
    """A close may have one of several codes; a reason that is None is not looked at."""
    if not isinstance(wanted, tuple):
        return heard == wanted
    if not isinstance(heard, list):
        return False
    _, code, reason = wanted
    codes = code if isinstance(code, tuple) else (code,)
    return (code is None or heard[1] in codes) and (reason is None or heard[2] == reason)


def run_cases(url, dial, deflate):
    parts = urlsplit(url)
    dial = dial or f"{parts.hostname}:{parts.port}"
    host, _, port = dial.rpartition(":")
    for index, (name, path, steps, wanted, odd) in enumerate(deflated() if deflate else cases()):
        target = f"{path}&case={index}" if path else f"/?case={index}"
        try:
            heard = Connection(url.rstrip("/") + target, (host, int(port)), deflate).run(steps, wanted)
            ok = len(heard) == len(wanted) and all(map(fits, heard, wanted))
        except Exception as error:  # a failed case is a line, not the end of the run
            heard, ok = [f"{type(error).__name__}: {error}"], False
        print(json.dumps({"case": name, "target": target, "heard": heard[-3:], "count": len(heard), "ok": ok, "odd": odd}), flush=True)


async def echo(connection):
    target = urlsplit(connection.request.path)
    if target.path.endswith("/close"):
        asked = parse_qs(target.query)
        await connection.close(int(asked["code"][0]), asked.get("reason", [""])[0])
    try:
        async for message in connection:
            await connection.send(message)
    except ConnectionClosed:
        pass
    finally:
        heard = connection.protocol.close_rcvd
        close_heard = {"code": heard.code, "reason": heard.reason} if heard else {"code": None}
        print(json.dumps({"event": "close", "target": connection.request.path, **close_heard}), flush=True)


async def serve():
    from websockets.asyncio.server import serve as listen

    async with listen(echo, "127.0.0.1", 0, max_size=None, ping_interval=None) as server:
        print(json.dumps({"event": "ready", "port": server.sockets[0].getsockname()[1]}), flush=True)
        await asyncio.get_running_loop().create_future()


def main():
    what, *rest = sys.argv[1:]
    if what == "serve":
        asyncio.run(serve())
    else:
        deflate = "--deflate" in rest
        dial = rest[rest.index("--dial") + 1] if "--dial" in rest else None
        run_cases(rest[0], dial, deflate)


if __name__ == "__main__":
    main()
