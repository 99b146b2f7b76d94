"""What does HTTP/2 look like in bytes? The frames of RFC 9113 §6 and header blocks of RFC 7541, built ahead and sent as they are."""

import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 7, 8, 9
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
HEADER_TABLE_SIZE, INITIAL_WINDOW_SIZE = 1, 4
MAX_WINDOW = 2**31 - 1
CODES = (
    "NO_ERROR PROTOCOL_ERROR INTERNAL_ERROR FLOW_CONTROL_ERROR SETTINGS_TIMEOUT STREAM_CLOSED FRAME_SIZE_ERROR REFUSED_STREAM "
    "CANCEL COMPRESSION_ERROR CONNECT_ERROR ENHANCE_YOUR_CALM INADEQUATE_SECURITY HTTP_1_1_REQUIRED"
).split()


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def settings(*pairs):
    return frame(SETTINGS, payload=b"".join(struct.pack(">HI", name, value) for name, value in pairs))


def window_update(stream, increment):
    return frame(WINDOW_UPDATE, stream=stream, payload=struct.pack(">I", increment))


def reset(stream, code=CODES.index("CANCEL")):
    return frame(RST_STREAM, stream=stream, payload=struct.pack(">I", code))


def headers(stream, block, flags=END_STREAM | END_HEADERS):
    return frame(HEADERS, flags, stream, block)


def begin(*pairs):
    """What a client says first."""
    return PREFACE + settings(*pairs)


# === header blocks ===


def number(value, bits, first=0):
    """RFC 7541 §5.1."""
    most = (1 << bits) - 1
    if value < most:
        return bytes([first | value])
    out, value = [first | most], value - most
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    return bytes([*out, value])


def literal(name, value, first=0x10):
    """A field that is never indexed, or with 0x40 one that goes into the dynamic table (§6.2)."""
    text = lambda octets: number(len(octets), 7) + octets
    return bytes([first]) + text(name) + text(value)


def request(path, method=b"GET", authority=b"orders.shop"):
    """Nothing of it goes into the dynamic table, so that every block stands alone."""
    pairs = [(b":method", method), (b":scheme", b"http"), (b":path", path), (b":authority", authority)]
    return b"".join(literal(name, value) for name, value in pairs)


# === what comes back ===


class Reader:
    """Takes bytes as they come, gives whole frames: kind, flags, stream, payload."""

    def __init__(self):
        self.held = b""

    def frames(self, octets):
        held = self.held + octets
        at = 0
        while len(held) - at >= 9:
            length = int.from_bytes(held[at : at + 3], "big")
            if len(held) - at < 9 + length:
                break
            stream = int.from_bytes(held[at + 5 : at + 9], "big")
            yield held[at + 3], held[at + 4], stream, held[at + 9 : at + 9 + length]
            at += 9 + length
        self.held = held[at:]


def code(octets):
    """The name of an error code in RST_STREAM (4 octets) or at the end of GOAWAY's head."""
    value = int.from_bytes(octets[:4], "big")
    return CODES[value] if value < len(CODES) else str(value)


def is_ok(block):
    """Does an answer begin with `:status: 200`? Every server here has it from the static table (index 8)."""
    while block and block[0] & 0xE0 == 0x20:
        # A change of the dynamic table's size (§6.3).
        last = 0 if block[0] & 0x1F < 0x1F else next(i for i, octet in enumerate(block[1:], 1) if octet < 128)
        block = block[last + 1 :]
    return block[:1] == b"\x88"
