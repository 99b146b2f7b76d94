"""Which floods are there? Their numbers, how long they take, and how much memory the sidecar may take for each."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Flood:
    """`count` of `unit` within `seconds`; resident memory may grow by `mib`."""

    name: str
    title: str
    unit: str
    count: int
    seconds: float
    mib: float

    @property
    def rate(self):
        return self.count / self.seconds


ONE = 8
FLOODS = [
    Flood("rapid-reset", "rapid reset: HEADERS, RST_STREAM", "streams", 20_000, 4, ONE),
    Flood("made-reset-zero", "made to reset: HEADERS, WINDOW_UPDATE of 0", "streams", 20_000, 4, ONE),
    Flood("made-reset-overflow", "made to reset: HEADERS, WINDOW_UPDATE past 2³¹−1", "streams", 20_000, 4, ONE),
    Flood("bad-requests", "malformed requests, a stream error each", "streams", 20_000, 4, ONE),
    Flood("requests-over", "requests far over the limit of streams", "streams", 20_000, 4, ONE),
    Flood("continuation", "CONTINUATION without end, a field in each", "frames", 20_000, 4, ONE),
    Flood("continuation-empty", "CONTINUATION without end, empty", "frames", 20_000, 4, ONE),
    Flood("data-empty", "empty DATA", "frames", 100_000, 4, ONE),
    Flood("data-one", "DATA of one octet", "frames", 100_000, 4, ONE),
    Flood("ping", "PING", "frames", 100_000, 4, ONE),
    Flood("ping-unread", "PING, answers not read", "frames", 100_000, 4, ONE),
    Flood("ping-ack", "PING that acknowledges nothing", "frames", 100_000, 4, ONE),
    Flood("settings", "SETTINGS, empty", "frames", 100_000, 4, ONE),
    Flood("settings-unread", "SETTINGS, answers not read", "frames", 100_000, 4, ONE),
    Flood("settings-windows", "SETTINGS that change the windows of 100 open streams", "frames", 100_000, 4, ONE),
    Flood("window-update", "WINDOW_UPDATE of the connection", "frames", 100_000, 4, ONE),
    Flood("window-update-stream", "WINDOW_UPDATE of a stream", "frames", 100_000, 4, ONE),
    Flood("priority", "PRIORITY of idle streams", "frames", 100_000, 4, ONE),
    Flood("unknown", "frames of no known type, empty", "frames", 100_000, 4, ONE),
    Flood("hpack-table", "HPACK bomb: 64 MB decoded from 16 KB", "requests", 400, 4, ONE),
    Flood("hpack-list", "header lists of 80 KB", "requests", 2_000, 4, ONE),
    Flood("streams-shut", "100 streams of window 0 on each, 128 KiB asked for", "connections", 10, 4, 64),
    Flood("streams-unread", "100 streams of wide windows on each, 128 KiB asked for, not read", "connections", 10, 4, 64),
    Flood("slow-heads", "slowloris: heads by an octet each second", "connections", 5_000, 14, 80),
    Flood("slow-bodies", "bodies by an octet each second", "connections", 5_000, 6, 160),
    Flood("slow-handshakes", "TLS handshakes by an octet each second", "connections", 5_000, 14, 80),
    Flood("slow-readers", "answers of 1 MiB read by an octet each second", "connections", 500, 6, 32),
    Flood("silent", "connections that say nothing", "connections", 5_000, 6, 40),
    Flood("new-connections", "a new connection for each request", "connections", 4_000, 4, ONE),
    Flood("idle-http1", "idle after a request, HTTP/1.1", "connections", 10_000, 8, 80),
    Flood("idle-http2", "idle after a request, HTTP/2", "connections", 10_000, 8, 320),
    Flood("idle-tls", "idle after a request, HTTP/1.1 over TLS", "connections", 10_000, 8, 200),
]


def chosen(only, quick):
    """Those whose names have one of these in them; `quick` has a tenth of each, in a quarter of the time, and of memory for many."""
    wanted = [one for one in FLOODS if not only or any(text in one.name for text in only.split(","))]
    if quick:
        wanted = [shortened(one) for one in wanted]
    return wanted


def shortened(one):
    count = max(4, one.count // 10)
    return dataclasses.replace(one, count=count, seconds=max(1, one.seconds / 4), mib=max(ONE, one.mib * count / one.count))
