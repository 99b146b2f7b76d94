"""What do other clients see? A steady rate of requests over HTTP/1.1, HTTP/2 and new connections, while somebody attacks.

    clients.py HTTP1_PORT HTTP2_PORT REQUESTS_PER_SECOND

Asks until standard input ends, then prints a JSON list of [kind, due, seconds it took, ok]. Time runs from when a request was
due, so that one that had to wait for another counts as slow as it was for its client.
"""

import collections
import json
import selectors
import socket
import sys
import time

import frames

PATIENCE = 10.0
ASK = b"GET /orders/17 HTTP/1.1\r\nHost: orders.shop\r\n\r\n"
# Out of a hundred requests.
SHARES = {"HTTP/1.1": 47, "HTTP/2": 47, "new": 6}
# Connections of HTTP/1.1 at first, and at most: as many as the answers that are awaited.
KEPT, MOST = 8, 64


class Http1:
    """One connection; an answer of 200 with its 128 bytes is a good one."""

    once = False

    def __init__(self, port):
        self.socket, self.due, self.held = connect(port), None, b""

    def ask(self, due):
        self.due, self.held = due, b""
        self.socket.sendall(ASK)

    def read(self):
        """What was answered: the times at which it was due, and whether well. None ends the connection."""
        got = self.socket.recv(65536)
        self.held += got
        head, ends, body = self.held.partition(b"\r\n\r\n")
        if not got:
            return None
        if not ends or len(body) < 128:
            return []
        due, self.due = self.due, None
        return [(due, head.startswith(b"HTTP/1.1 200"))]

    def open(self):
        return [] if self.due is None else [self.due]


class New(Http1):
    """A connection for one request. It may have to wait for that: the queue of who wants to connect can be full."""

    once = True

    def __init__(self, port, due):
        self.socket, self.due, self.held = socket.socket(), due, b""
        self.socket.setblocking(False)
        self.socket.connect_ex(("127.0.0.1", port))

    def connected(self):
        self.socket.sendall(ASK)


class Http2:
    """One connection, every request a stream of it."""

    once = False

    def __init__(self, port):
        self.socket, self.reader, self.stream, self.dues, self.good = connect(port), frames.Reader(), 1, {}, set()
        self.socket.sendall(frames.begin() + frames.window_update(0, 2**30))

    def ask(self, due):
        self.dues[self.stream] = due
        self.socket.sendall(frames.headers(self.stream, frames.request(b"/orders/17")))
        self.stream += 2

    def read(self):
        got, done = self.socket.recv(65536), []
        for kind, flags, stream, payload in self.reader.frames(got):
            if kind in (frames.SETTINGS, frames.PING) and not flags & frames.ACK:
                self.socket.sendall(frames.frame(kind, frames.ACK, 0, payload if kind == frames.PING else b""))
            if kind == frames.HEADERS and frames.is_ok(payload):
                self.good.add(stream)
            over = kind == frames.RST_STREAM or kind in (frames.HEADERS, frames.DATA) and flags & frames.END_STREAM
            if over and stream in self.dues:
                done.append((self.dues.pop(stream), kind != frames.RST_STREAM and stream in self.good))
                self.good.discard(stream)
            if kind == frames.GOAWAY:
                return None
        return done if got else None

    def open(self):
        return list(self.dues.values())


class Clients:
    """All connections, and what they saw."""

    def __init__(self, http1, http2, rate):
        self.ports, self.rate, self.seen = {"HTTP/1.1": http1, "HTTP/2": http2, "new": http1}, rate, []
        self.selector = selectors.DefaultSelector()
        self.idle = collections.defaultdict(list)
        self.waiting = collections.defaultdict(collections.deque)
        self.kinds = self.turns()

    @staticmethod
    def turns():
        """The kinds in their shares, spread evenly (by the largest remainder)."""
        owed = dict.fromkeys(SHARES, 0)
        while True:
            for kind, share in SHARES.items():
                owed[kind] += share
            most = max(owed, key=owed.get)
            owed[most] -= 100
            yield most

    def run(self, ended):
        self.selector.register(ended, selectors.EVENT_READ)
        for _ in range(KEPT):
            self.add("HTTP/1.1")
        self.add("HTTP/2")
        due = time.monotonic()
        while True:
            while due <= time.monotonic():
                self.waiting[next(self.kinds)].append(due)
                due += 1 / self.rate
            self.send()
            for key, events in self.selector.select(max(0, due - time.monotonic())):
                if key.fileobj is ended:
                    return self.end()
                if events & selectors.EVENT_WRITE:
                    self.begin(*key.data)
                else:
                    self.take(*key.data)

    def add(self, kind):
        try:
            one = (Http2 if kind == "HTTP/2" else Http1)(self.ports[kind])
        except OSError:
            return
        self.selector.register(one.socket, selectors.EVENT_READ, (kind, one))
        self.idle[kind].append(one)

    def send(self):
        while self.waiting["new"]:
            one = New(self.ports["new"], self.waiting["new"].popleft())
            self.selector.register(one.socket, selectors.EVENT_WRITE, ("new", one))
        for kind, waiting in self.waiting.items():
            while waiting:
                if not self.idle[kind] and (kind != "HTTP/1.1" or self.held(kind) < MOST):
                    self.add(kind)
                if not self.idle[kind]:
                    break
                due, one = waiting.popleft(), self.idle[kind].pop()
                try:
                    one.ask(due)
                except OSError:
                    self.lose(kind, one)
                    continue
                if kind == "HTTP/2":
                    self.idle[kind].append(one)
            while waiting and waiting[0] < time.monotonic() - PATIENCE:
                self.seen.append([kind, waiting.popleft(), PATIENCE, False])

    def begin(self, kind, one):
        try:
            one.connected()
        except OSError:
            return self.lose(kind, one)
        self.selector.modify(one.socket, selectors.EVENT_READ, (kind, one))

    def held(self, kind):
        return sum(1 for key in self.selector.get_map().values() if key.data and key.data[0] == kind)

    def take(self, kind, one):
        try:
            answers = one.read()
        except OSError:
            answers = None
        if answers is None:
            return self.lose(kind, one)
        now = time.monotonic()
        for due, ok in answers:
            self.seen.append([kind, due, now - due, ok])
        if answers and one.once:
            self.close(one)
        elif answers and kind == "HTTP/1.1":
            self.idle[kind].append(one)

    def lose(self, kind, one):
        """A kept connection may end between two requests; what was asked on it has failed."""
        now = time.monotonic()
        self.seen += [[kind, due, now - due, False] for due in one.open()]
        if one in self.idle[kind]:
            self.idle[kind].remove(one)
        self.close(one)

    def close(self, one):
        self.selector.unregister(one.socket)
        one.socket.close()

    def end(self):
        """What was not answered is as slow as it is now, and failed if that is long."""
        now = time.monotonic()
        ones = [key.data for key in self.selector.get_map().values() if key.data]
        left = [(kind, due) for kind, one in ones for due in one.open()]
        left += [(kind, due) for kind, waiting in self.waiting.items() for due in waiting]
        return self.seen + [[kind, due, now - due, now - due < 0.5] for kind, due in left]


def connect(port):
    one = socket.create_connection(("127.0.0.1", port), timeout=2)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one


if __name__ == "__main__":
    http1, http2, rate = map(int, sys.argv[1:])
    print(json.dumps(Clients(http1, http2, rate).run(sys.stdin)))
