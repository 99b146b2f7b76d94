"""How do many connections attack? Slow heads, bodies, handshakes and readers, streams that nobody reads, idle connections, and
connections that come and go.
"""

import errno
import socket
import ssl
import struct
import time

import frames
from streams import ATTACKER, GET

SLICE = 0.01
HEAD = b"GET /orders/17 HTTP/1.1\r\nHost: orders.shop\r\n"
ASK = HEAD + b"\r\n"
LARGE = b"GET /exports/big HTTP/1.1\r\nHost: orders.shop\r\n\r\n"
BODY = b"POST /imports/1 HTTP/1.1\r\nHost: orders.shop\r\nContent-Length: 100000\r\n\r\n"
HTTP2 = frames.begin() + frames.headers(1, GET)
# A record of a handshake that says it has 512 octets, and begins as a ClientHello does (RFC 8446 §4).
HELLO = bytes([22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3])
HUNDRED = b"".join(frames.headers(one, frames.request(b"/exports/middle")) for one in range(1, 200, 2))
SHUT = frames.begin((frames.INITIAL_WINDOW_SIZE, 0)) + HUNDRED
WIDE = frames.begin((frames.INITIAL_WINDOW_SIZE, frames.MAX_WINDOW)) + frames.window_update(0, 2**30) + HUNDRED
# Port, what each begins with, and the octets that follow one by one, each second.
FLOODS = {
    "slow-heads": ("http1", HEAD + b"X-Slow: ", b"a"),
    "slow-bodies": ("http1", BODY, b"a"),
    "slow-handshakes": ("tls", HELLO, b"\0"),
    "slow-readers": ("http1", LARGE, None),
    "streams-shut": ("http2", SHUT, None),
    "streams-unread": ("http2", WIDE, None),
    "idle-http1": ("http1", ASK, None),
    "idle-http2": ("http2", HTTP2, None),
    "idle-tls": ("tls", ASK, None),
    "silent": ("http1", b"", None),
}
# Of SECONDS; they stay for the rest.
OPENING = 0.5
# Seconds in which all are open and answered, or it goes on with those that are.
PATIENCE = 40.0
SLOW_READER = 4096


def run(flood, ports, count, seconds):
    if flood == "new-connections":
        return churn(ports["http1"], count, seconds)
    port, begin, drop = FLOODS[flood]
    crowd = Crowd(ports[port], begin, drop, tls=flood == "idle-tls", small=flood in ("slow-readers", "streams-unread"))
    began = time.monotonic()
    crowd.open(count, began, seconds * OPENING)
    opened = time.monotonic() - began
    if flood.startswith("idle"):
        crowd.answers(began + PATIENCE)
    crowd.stay(max(began + seconds, time.monotonic() + seconds * (1 - OPENING)))
    ended = time.monotonic()
    kept, fate = crowd.close()
    return {
        "began": began,
        "ended": ended,
        "sent": len(crowd.sockets),
        "connections": len(crowd.sockets),
        "opened": opened,
        "kept": kept,
        "fate": fate,
        "refused": crowd.refused,
    }


class Crowd:
    """Many connections that do alike."""

    def __init__(self, port, begin, drop, tls, small):
        self.port, self.begin, self.drop, self.small = port, begin, drop, small
        self.sockets, self.gone, self.refused = [], {}, 0
        self.tls = tls and ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if tls:
            self.tls.check_hostname, self.tls.verify_mode = False, ssl.CERT_NONE

    def open(self, count, began, seconds):
        """Evenly over these seconds, or as fast as it goes."""
        for number in range(count):
            if time.monotonic() > began + PATIENCE:
                return
            time.sleep(max(0, began + number * seconds / count - time.monotonic()) if number % 10 == 0 else 0)
            try:
                self.sockets.append(self.one())
            except OSError:
                self.refused += 1
                if self.refused > 20:
                    return

    def one(self):
        one = socket.socket()
        one.settimeout(5)
        if self.small:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_READER)
        one.bind((ATTACKER, 0))
        one.connect(("127.0.0.1", self.port))
        if self.tls:
            one = self.tls.wrap_socket(one, server_hostname="orders.shop")
        one.sendall(self.begin)
        return one

    def answers(self, until):
        """An idle connection is one that was of use before."""
        for one in self.sockets:
            try:
                one.settimeout(max(0.01, min(5, until - time.monotonic())))
                one.recv(65536)
            except OSError:
                pass

    def stay(self, until):
        """Each connection is looked at once a second."""
        for one in self.sockets:
            one.setblocking(False)
        turn = time.monotonic()
        while time.monotonic() < until:
            for number, one in enumerate(self.sockets):
                if number % max(1, len(self.sockets) // 100) == 0:
                    time.sleep(max(0, min(until, turn + number / len(self.sockets)) - time.monotonic()))
                if one not in self.gone:
                    self.look(one)
            turn += 1
            time.sleep(max(0, min(until, turn) - time.monotonic()))

    def look(self, one):
        try:
            if self.drop:
                one.send(self.drop)
                got = one.recv(4096)
            elif self.small:
                # An octet, so that it is not a reader that is gone.
                got = one.recv(1)
            else:
                got = one.recv(4096)
            if not got:
                self.gone[one] = "closed"
            elif got.startswith(b"HTTP/1.1 4"):
                self.gone[one] = got[9:12].decode()
        except (BlockingIOError, ssl.SSLWantReadError):
            pass
        except OSError as error:
            self.gone[one] = errno.errorcode.get(error.errno, "error")

    def close(self):
        """How many were still there, and what most of the others met."""
        met = list(self.gone.values())
        fate = max(set(met), key=met.count) if met else "open"
        for one in self.sockets:
            reset(one)
        return len(self.sockets) - len(met), fate


def churn(port, count, seconds):
    """A connection, a request, its answer, and the end of it."""
    began, waiting, answered, opened, refused = time.monotonic(), [], 0, 0, 0
    slices = int(seconds / SLICE)
    for turn in range(slices):
        for _ in range(count * (turn + 1) // slices - count * turn // slices):
            one = socket.socket()
            one.setblocking(False)
            one.bind((ATTACKER, 0))
            one.connect_ex(("127.0.0.1", port))
            waiting.append((time.monotonic(), one, [False]))
            opened += 1
        left = []
        for since, one, asked in waiting:
            done = step(one, asked)
            if done is None and time.monotonic() - since < 2:
                left.append((since, one, asked))
                continue
            answered += done is True
            refused += done is not True
            reset(one)
        waiting = left
        time.sleep(max(0, began + (turn + 1) * SLICE - time.monotonic()))
    ended = time.monotonic()
    for _, one, _ in waiting:
        reset(one)
    fate = "answered" if refused == 0 else f"{refused} not answered"
    return {"began": began, "ended": ended, "sent": opened, "connections": opened, "kept": 0, "fate": fate, "refused": refused}


def step(one, asked):
    """Asks, then reads. True is an answer, False the end without one, None neither yet."""
    try:
        if not asked[0]:
            one.send(ASK)
            asked[0] = True
        return bool(one.recv(4096))
    except (BlockingIOError, OSError) as error:
        waits = (errno.EAGAIN, errno.ENOTCONN, errno.EINPROGRESS)
        return None if error.errno in waits else False


def reset(one):
    """Nothing stays behind, not even for a minute."""
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    except OSError:
        pass
    # Not unwrap(): what TLS would say at the end is not said.
    one.close()
