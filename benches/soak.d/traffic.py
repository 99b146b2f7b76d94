"""Who asks? Callers on every road at a steady rate, each on connections that it keeps for a while; and some who behave badly."""

import asyncio
import contextlib
import random
import ssl
import time

import client
from cases import Cases

# How many requests may be under way on each road; a fault holds some of them for seconds.
CALLERS = {"inbound": 48, "outbound": 32, "multiplexed": 32, "caller": 16}
# Of a hundred requests.
SHARE = {"inbound": 45, "outbound": 25, "multiplexed": 20, "caller": 10}
NEW_CONNECTION = 0.05


class Traffic:
    """Asks and has the answers judged."""

    def __init__(self, stage, tokens, judge, seed):
        self.stage, self.judge, self.tokens = stage, judge, tokens
        self.chance = random.Random(f"{seed}/traffic")
        self.cases = Cases(random.Random(f"{seed}/cases"), tokens)
        self.tls = ssl.create_default_context(cafile=stage.ca)
        self.done = 0
        self.skipped = 0
        # Requests that may begin now on a road.
        self.turns = {road: asyncio.Semaphore(0) for road in CALLERS}
        self.free = False

    async def measure(self, seconds):
        """Requests each second that the whole takes, everybody asking as fast as he can."""
        self.free = True
        before, begun = self.done, time.monotonic()
        async with self.callers():
            await asyncio.sleep(seconds)
        self.free = False
        return (self.done - before) / (time.monotonic() - begun)

    async def keep_up(self, rate, seconds):
        """This many requests each second. Those that find all callers of their road busy are left out, and counted."""
        async with self.callers():
            end = time.monotonic() + seconds
            due = time.monotonic()
            while due < end:
                await asyncio.sleep(max(0, due - time.monotonic()))
                road = self.chance.choices(list(SHARE), list(SHARE.values()))[0]
                if self.turns[road]._value < CALLERS[road]:
                    self.turns[road].release()
                else:
                    self.skipped += 1
                due += self.chance.expovariate(rate)

    @contextlib.asynccontextmanager
    async def callers(self):
        """Callers at work; at the end each finishes what it has begun."""
        self.ending = asyncio.Event()
        tasks = [asyncio.ensure_future(self.caller(road)) for road, count in CALLERS.items() for _ in range(count)]
        try:
            yield
            self.ending.set()
            for road, count in CALLERS.items():
                for _ in range(count):
                    self.turns[road].release()
            await asyncio.gather(*tasks)
            self.turns = {road: asyncio.Semaphore(0) for road in CALLERS}
        finally:
            for task in tasks:
                task.cancel()

    async def caller(self, road):
        connection = self.connect(road)
        while True:
            if not self.free:
                await self.turns[road].acquire()
            if self.ending.is_set():
                return connection.close()
            await self.ask(road, connection)
            if self.chance.random() < NEW_CONNECTION:
                connection.close()

    def connect(self, road):
        ports = self.stage.ports
        if road == "inbound":
            return client.Connection(ports["inbound"], self.tls, "orders.example")
        return client.Connection(ports["caller"] if road == "caller" else ports["outbound"])

    async def ask(self, road, connection):
        request = self.cases.inbound() if road == "inbound" else self.cases.outbound(road)
        begin = time.monotonic()
        answer = await connection.ask(request.method, *self.written(request), request.body)
        self.judge.hear(request, answer, begin, time.monotonic())
        self.done += 1
        return answer

    def written(self, request):
        """Target and header fields."""
        # A copy of the identity that a caller sends himself must not arrive.
        headers = {"Host": "orders.example", "X-Nonce": request.nonce, "X-Client-Id": "somebody-else"}
        if request.token:
            headers["Authorization"] = f"Bearer {request.token}"
        if request.road == "inbound":
            return request.path, headers
        port = self.stage.ports["sidecars_h2" if request.road == "multiplexed" else "sidecars"]
        headers["Host"] = request.elsewhere or f"localhost:{port}"
        # In both forms in which clients write it (RFC 9112 §3.2).
        absolute = self.chance.random() < 0.5
        return f"http://{headers['Host']}{request.path}" if absolute else request.path, headers


async def misbehave(stage, tls, chance, ending):
    """Callers who go away half-way, say nothing, or do not read. Nobody is asked what they heard; they must leave no trace."""
    while not ending.is_set():
        with contextlib.suppress(OSError, ssl.SSLError, TimeoutError):
            async with asyncio.timeout(10):
                await one_rude_caller(stage, tls, chance)
        await asyncio.sleep(chance.uniform(0.1, 0.5))


async def one_rude_caller(stage, tls, chance):
    secure = chance.random() < 0.5
    port = stage.ports["inbound" if secure else "outbound"]
    more = {"ssl": tls, "server_hostname": "orders.example"} if secure else {}
    reader, writer = await asyncio.open_connection("127.0.0.1", port, **more)
    headers = {"Host": f"localhost:{stage.ports['sidecars']}", "X-Nonce": "rude"}
    head = client.head("POST", "/public/100000/rude", headers, b"x" * 1000)
    try:
        for octets in chance.choice(([], [head[:30]], [head, b"x" * 500], [head, b"x" * 1000], [chance.randbytes(200)])):
            writer.write(octets)
            await writer.drain()
            await asyncio.sleep(chance.uniform(0, 0.3))
        if chance.random() < 0.3:
            await reader.read(100)
    finally:
        writer.transport.abort()
