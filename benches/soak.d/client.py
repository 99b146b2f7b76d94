"""How is a request sent, and what comes back? HTTP/1.1 by hand, so that an answer that breaks off is told from one that ended,
and no answer from either."""

import asyncio
import dataclasses
import hashlib

# Seconds after which a request that has no whole answer is lost: longer than all timeouts of both sidecars together.
PATIENCE = 30.0


@dataclasses.dataclass
class Answer:
    """What came back. Without a status, nothing did."""

    status: int = 0
    headers: dict = dataclasses.field(default_factory=dict)
    body: bytes = b""
    # None if it came to its end; else what went wrong.
    trouble: str | None = None

    @property
    def reason(self):
        return self.headers.get("x-countersign-reason")


class Connection:
    """A kept-alive connection, opened when it is needed. Knows which certificates it was shown."""

    certificates = set()

    def __init__(self, port, tls=None, name=None):
        self.port, self.tls, self.name = port, tls, name
        self.reader = self.writer = self.shown = None

    async def ask(self, method, target, headers, body=b""):
        """Sends a request and reads its answer; never raises for what the other end does."""
        answer = Answer()
        try:
            async with asyncio.timeout(PATIENCE):
                if self.writer is None:
                    await self.open()
                self.writer.writelines([head(method, target, headers, body), body])
                await self.read(answer, method)
        except TimeoutError:
            answer.trouble = f"nothing more within {PATIENCE:.0f} s"
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
            answer.trouble = type(error).__name__
        if answer.trouble or answer.headers.get("connection", "").lower() == "close":
            self.close()
        return answer

    async def open(self):
        self.reader, self.writer = await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=self.tls, server_hostname=self.name, limit=256 * 1024
        )
        if self.tls:
            self.shown = self.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            self.certificates.add(hashlib.sha256(self.shown).hexdigest())

    def close(self):
        if self.writer is not None:
            self.writer.transport.abort()
        self.reader = self.writer = None

    async def read(self, answer, method):
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        version, status, *_ = lines[0].split(" ")
        if version != "HTTP/1.1":
            raise ValueError(lines[0])
        for line in filter(None, lines[1:]):
            name, _, value = line.partition(":")
            answer.headers[name.lower()] = value.strip()
        answer.status = int(status)
        if method == "HEAD" or answer.status in (204, 304):
            return
        if answer.headers.get("transfer-encoding") == "chunked":
            while size := int((await self.reader.readuntil(b"\r\n")).split(b";")[0], 16):
                await self.take(answer, size)
                await self.reader.readexactly(2)
            await self.reader.readuntil(b"\r\n")
        else:
            length = int(answer.headers["content-length"]) if "content-length" in answer.headers else None
            if length is None:
                raise ValueError("an answer without a length")
            await self.take(answer, length)

    async def take(self, answer, length):
        """So much of the body; what there is of it, if there is less."""
        try:
            answer.body += await self.reader.readexactly(length)
        except asyncio.IncompleteReadError as error:
            answer.body += error.partial
            raise


def head(method, target, headers, body):
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    if body or method == "POST":
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode()
