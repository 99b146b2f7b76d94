"""The story of a soak, in the order of time: everything starts, the load is measured, then all goes on at once, and is added up."""

import asyncio
import collections
import json
import random
import shutil
import sys
import time

import http2
import logs
import policies
import summary
import traffic
from changes import Changes
from judge import Judge
from samples import Samples
from stage import Stage
from tokens import Tokens

MEASURE = 4
# From the last fault to the end, in which nothing is excused any more.
CALM = 8
# Callers who behave badly, all the time.
RUDE = 3
# How many of the replaced policies each sidecar must have applied; changes that come close together count once.
APPLIED = 0.5
# Until a certificate that was replaced is shown, in seconds, on a machine that is busy.
NOTICED = 10.0


def run(folder, programs, options):
    """The summary, and whether all is well."""
    print(f"seed {options.seed}", file=sys.stderr)
    with Stage(folder, programs, options.seed) as stage:
        soak = Soak(stage, options)
        try:
            asyncio.run(soak.run())
        finally:
            keep(folder, options.keep)
    soak.add_up()
    text = summary.markdown(soak)
    good = not (soak.judge.wrong or soak.judge.lost or soak.broken) and all(row[-1] for row in soak.growth)
    return text, good


class Soak:
    def __init__(self, stage, options):
        self.stage, self.options, self.seed = stage, options, options.seed
        self.tokens = Tokens(random.Random(f"{options.seed}/tokens"))
        self.judge = Judge()
        self.changes = Changes(stage, self.tokens)
        self.traffic = traffic.Traffic(stage, self.tokens, self.judge, options.seed)
        self.samples = Samples(stage.measured)
        self.broken = []

    async def run(self):
        await asyncio.to_thread(self.changes.first_tokens)
        self.full = await self.traffic.measure(MEASURE)
        self.rate = self.options.rate or self.full / 2
        print(f"measured  {self.full:.0f} requests each second; going on with {self.rate:.0f}", file=sys.stderr)
        self.judge.start = time.monotonic() + 1
        await asyncio.to_thread(self.stage.begin_faults, self.judge.start, self.options.seconds - CALM)
        ending = asyncio.Event()
        chance = random.Random(f"{self.seed}/rude")
        beside = [self.changes.run(ending), self.samples.run(ending), self.progress(ending)]
        beside += [http2.ask(self.stage, self.traffic.cases, self.judge, ending)]
        beside += [traffic.misbehave(self.stage, self.traffic.tls, chance, ending) for _ in range(RUDE)]
        await self.together(ending, self.traffic.keep_up(self.rate, self.options.seconds), beside)
        await self.last_look()

    async def together(self, ending, main, beside):
        """All of it until the load has ended, or anything fails."""
        tasks = [asyncio.ensure_future(one) for one in beside]
        load = asyncio.ensure_future(main)
        try:
            waiting = {load, *tasks}
            while not load.done():
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for one in done:
                    one.result()
            ending.set()
            await asyncio.gather(*tasks)
        finally:
            for task in (load, *tasks):
                task.cancel()
            await asyncio.gather(load, *tasks, return_exceptions=True)

    async def progress(self, ending):
        begun = time.monotonic()
        while not ending.is_set():
            self.stage.check_running()
            seconds = time.monotonic() - begun
            judge = self.judge
            if int(seconds) % 15 == 0:
                print(f"{seconds:6.0f} s   {self.traffic.done:,} answers, {len(judge.wrong)} wrong, {len(judge.lost)} lost, "
                      f"{len(judge.excuses)} to be explained by faults", file=sys.stderr)
            await asyncio.sleep(1)

    async def last_look(self):
        """When all is quiet, the last version is in force in both sidecars, and neither has refused one or failed."""
        await asyncio.sleep(3)
        self.applied = {}
        for name in ("checkout", "orders"):
            metrics = await asyncio.to_thread(self.stage.metrics, f"admin_{name}")
            self.applied[name] = metrics.get('countersign_policy_reloads_total{result="applied"}', 0)
            if metrics.get('countersign_policy_reloads_total{result="rejected"}', 0):
                self.broken.append(f"the sidecar of {name} has rejected a policy")
            if self.applied[name] < APPLIED * self.changes.version:
                self.broken.append(f"the sidecar of {name} has applied {self.applied[name]:.0f} of {self.changes.version} policies")
            failed = [key for key in metrics if 'reason="internal"' in key and metrics[key]]
            self.broken += [f"the sidecar of {name}: {key}" for key in failed]
        await self.check_flip()
        await self.check_certificate()
        await self.samples.rest()

    async def check_flip(self):
        wanted = 200 if policies.is_open(self.changes.version) else 403
        connection = self.traffic.connect("outbound")
        request = self.traffic.cases.judged("outbound", "flip", None, "checkout")
        answer = await connection.ask(request.method, *self.traffic.written(request), request.body)
        connection.close()
        self.judge.hear(request, answer, time.monotonic(), time.monotonic())
        if answer.status != wanted:
            self.broken.append(f"after the last change `{policies.FLIPPING}` is {answer.status}, not {wanted}")

    async def check_certificate(self):
        """New connections are shown the pair that was written last; the sidecar looks every two seconds."""
        begun = time.monotonic()
        while await self.shown_now() != self.stage.certificate("server", self.changes.counts["certificates"]):
            if time.monotonic() - begun > NOTICED:
                return self.broken.append(f"{NOTICED:.0f} s after the last change callers are shown another certificate")
            await asyncio.sleep(0.5)

    async def shown_now(self):
        connection = self.traffic.connect("inbound")
        await connection.open()
        connection.close()
        return connection.shown

    def add_up(self):
        """When every process has ended, and has written down what it saw."""
        self.asked, self.skipped = len(self.judge.asked), self.traffic.skipped
        self.growth = list(self.samples.growth())
        self.events = [json.loads(line) for line in self.stage.events.read_text().splitlines()]
        seen = collections.defaultdict(list)
        for line in self.stage.seen.read_text().splitlines():
            *_, port, nonce = line.split()
            seen[nonce].append(port)
        seen.pop("rude", None)
        self.excused = self.judge.settle(self.events, seen)
        self.judge.compare(seen)
        self.shown = len(traffic.client.Connection.certificates)
        if self.shown < 2:
            self.broken.append("callers were never shown another certificate")
        self.broken += logs.news(self.stage.measured)


def keep(folder, to):
    if to:
        to.mkdir(parents=True, exist_ok=True)
        for file in folder.glob("*.log"):
            shutil.copy(file, to)
