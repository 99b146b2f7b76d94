"""What if the road is ill? A TCP proxy for each pair of parts, that now and then delays, resets, swallows, cuts, drips or
falsifies what passes. What it does follows from a seed; what it has done stands in a file, so that answers can be judged by it.

    fault_proxy.py '{"seed": 1, "seconds": 60, "start": T, "events": FILE, "links": {NAME: LINK}}'

LINK is {"listen": PORT, "to": PORT, "kinds": [...], "shared": false, "sparse": false}; `start` is of the monotonic clock, which all
processes of a machine share. Without faults it passes bytes, ends and resets on. A fault befalls one exchange: what a client
sends, after an answer or at first, and what comes back for it. Each event is one line of JSON: link, kind, begin, end, bytes of
the answer that got through, whether the connection may have carried others' too, and the port from which it reached the server.
"""

import asyncio
import json
import random
import signal
import socket
import struct
import sys
import time

import schedule

CHUNK = 64 * 1024
# Longer than any part waits for an answer, so that it is their clock that ends the wait, and not we.
LONGEST_SILENCE = 10.0
OTHER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 24\r\n\r\nthe answer of no request"


class Link:
    """One port that leads to another."""

    def __init__(self, name, plan, events):
        own = plan["links"][name]
        self.name, self.start, self.seed = name, plan["start"], plan["seed"]
        self.to, self.listen, self.shared = own["to"], own["listen"], own["shared"]
        self.schedule = schedule.windows(self.seed, name, own["kinds"], plan["seconds"], own["sparse"])
        self.events = events
        self.connections = 0
        # The loop knows tasks weakly: one whose connection it does not look at just now would be collected, its fault untold.
        self.tasks = set()

    async def serve(self):
        server = await asyncio.start_server(self.take, "127.0.0.1", self.listen, limit=CHUNK)
        await server.serve_forever()

    async def take(self, reader, writer):
        self.connections += 1
        task = asyncio.current_task()
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        draw = schedule.Draw(self.seed, self.name, self.connections, self.schedule)
        await Conversation(self, draw, reader, writer).run()


class Conversation:
    """One connection, and the one behind it."""

    def __init__(self, link, draw, reader, writer):
        self.link, self.draw = link, draw
        self.reader, self.writer = reader, writer
        self.far_reader = self.far_writer = self.far_port = None
        self.answering = True
        self.event = None
        self.kind = None
        self.shared = link.shared

    async def run(self):
        try:
            self.begin_exchange()
            if self.kind == schedule.REFUSE:
                return
            self.far_reader, self.far_writer = await asyncio.open_connection("127.0.0.1", self.link.to, limit=CHUNK)
            self.far_port = self.far_writer.get_extra_info("sockname")[1]
            tasks = [asyncio.ensure_future(self.up()), asyncio.ensure_future(self.down())]
            try:
                await asyncio.gather(*tasks)
                self.close(asyncio.StreamWriter.close)
            finally:
                for task in tasks:
                    task.cancel()
        except (OSError, Ended):
            pass
        finally:
            # Nothing happens to what is closed already.
            self.close(reset)
            self.end_event()

    def close(self, how):
        for writer in filter(None, (self.writer, self.far_writer)):
            how(writer)

    def begin_exchange(self):
        self.end_event()
        now = time.monotonic()
        self.kind = self.draw.next(now - self.link.start)
        if self.kind == schedule.REFUSE and self.far_writer:
            # What is open cannot be refused, and whatever is under way on it ends.
            self.kind = schedule.RESET
        self.answering = False
        if self.kind:
            self.event = {"link": self.link.name, "kind": self.kind, "begin": now, "passed": 0}

    def end_event(self):
        if self.event:
            told = {**self.event, "end": time.monotonic(), "shared": self.shared, "from": self.far_port}
            self.link.events.write(json.dumps(told) + "\n")
            self.event = None

    async def up(self):
        """What the client sends."""
        while data := await self.reader.read(CHUNK):
            # The preface of HTTP/2 (RFC 9113 §3.4).
            self.shared = self.shared or data.startswith(b"PRI * HTTP/2.0")
            if self.answering:
                self.begin_exchange()
            if self.kind == schedule.DELAY:
                await asyncio.sleep(self.draw.chance.uniform(0.05, 0.5))
            elif self.kind == schedule.RESET:
                raise Ended
            elif self.kind == schedule.HALF_OPEN:
                await self.keep_silent()
            self.far_writer.write(data)
            await self.far_writer.drain()
        self.far_writer.write_eof()

    async def keep_silent(self):
        """Until the client has had enough."""
        try:
            async with asyncio.timeout(LONGEST_SILENCE):
                while await self.reader.read(CHUNK):
                    pass
        except TimeoutError:
            pass
        raise Ended

    async def down(self):
        """What the server answers."""
        while data := await self.far_reader.read(CHUNK):
            self.answering = True
            if self.kind == schedule.HALF_OPEN:
                continue
            # Inside a frame of HTTP/2 without TLS garbage would be somebody's body, which nobody could tell.
            unprotected = self.kind == schedule.GARBAGE and self.shared and not self.link.shared
            if self.kind in (schedule.TRUNCATE, schedule.BREAK) or unprotected:
                await self.cut(data)
            if self.kind == schedule.GARBAGE:
                await self.pass_on(self.draw.chance.randbytes(self.draw.chance.randrange(1, 2000)))
                raise Ended
            if self.kind == schedule.DRIP:
                data = await self.drip(data)
            if self.kind == schedule.SURPLUS and is_whole(data):
                data += OTHER
            await self.pass_on(data)
        self.writer.write_eof()
        # What the client still says has nobody to hear it, and a client that waits for our end has it.
        if self.event:
            raise Ended

    async def cut(self, data):
        """A piece of the answer, and its end."""
        await self.pass_on(data[: self.draw.chance.randrange(len(data))])
        if self.kind == schedule.TRUNCATE:
            self.writer.write_eof()
            # Time to be taken for a clean end, before the reset that cleans up.
            await asyncio.sleep(0.2)
        raise Ended

    async def drip(self, data):
        """Some bytes one by one; what is left of them."""
        slow = self.draw.chance.randrange(1, 60)
        for octet in data[:slow]:
            await self.pass_on(bytes([octet]))
            await asyncio.sleep(0.01)
        return data[slow:]

    async def pass_on(self, data):
        if self.event:
            self.event["passed"] += len(data)
        self.writer.write(data)
        await self.writer.drain()


class Ended(Exception):
    """The fault has done its work, and both connections are reset."""


def is_whole(data):
    """Is it one answer of HTTP/1.1, with its length, to its end?"""
    head, found, body = data.partition(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), None)
    return bool(found) and data.startswith(b"HTTP/1.1 200") and length == len(body)


def reset(writer):
    if writer.is_closing():
        return
    sock = writer.get_extra_info("socket")
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    except OSError:
        pass
    writer.transport.abort()


async def main(plan):
    with open(plan["events"], "w", buffering=1) as events:
        links = [Link(name, plan, events) for name in plan["links"]]
        await asyncio.gather(*(link.serve() for link in links))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    asyncio.run(main(json.loads(sys.argv[1])))
