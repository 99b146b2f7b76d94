"""Does anything grow? Resident memory and file descriptors of each process of ours, each second, from /proc."""

import asyncio
import dataclasses
import os
import pathlib
import re
import statistics

# What counts as flat: the median of the last quarter is at most that of the first one, and this much on top.
MEMORY_SHARE, MEMORY_MIB = 0.10, 8.0
DESCRIPTORS_SHARE, DESCRIPTORS = 0.10, 64
# A connection that a fault leaves open is closed as idle after up to a minute, so descriptors rise and fall in waves of that length:
# the medians of quarters that are shorter, in seconds, only say which wave was met. What is there at rest is exact in any run.
QUARTER = 120
# Descriptors that may be there afterwards and were not before: a connection to the issuer, one to the control plane that is renewed.
AT_REST = 8
# Until all that is idle has been closed, in seconds: 60 for callers (up to twice that for a stream), 50 for upstreams.
RESTED = 130
# Until caches, pools and the allocator are warm, in seconds.
WARM_UP = 15


@dataclasses.dataclass(frozen=True)
class Sample:
    mebibytes: float
    descriptors: int


class Samples:
    def __init__(self, processes):
        # The process itself: no wrapper stays.
        self.pids = {name: process.child.pid for name, process in processes.items()}
        self.taken = {name: [] for name in processes}
        self.before = self.descriptors()
        self.after = None

    def descriptors(self):
        return {name: sample(pid).descriptors for name, pid in self.pids.items()}

    async def run(self, ending):
        while not ending.is_set():
            for name, pid in self.pids.items():
                self.taken[name].append(sample(pid))
            await asyncio.sleep(1)

    async def rest(self):
        """When all callers have gone, until as many descriptors are open as before the first came, or idle limits have passed."""
        for _ in range(RESTED):
            self.after = self.descriptors()
            if all(self.after[name] <= self.before[name] + AT_REST for name in self.after):
                break
            await asyncio.sleep(1)

    def growth(self):
        """For each process and measure: first, last, maximum, bound, and whether it is flat."""
        for name, taken in self.taken.items():
            warm = taken[WARM_UP:] if len(taken) > 4 * WARM_UP else taken
            descriptors = [one.descriptors for one in warm]
            yield name, "RSS, MiB", *judged([one.mebibytes for one in warm], MEMORY_SHARE, MEMORY_MIB)
            if len(warm) >= 4 * QUARTER:
                yield name, "file descriptors", *judged(descriptors, DESCRIPTORS_SHARE, DESCRIPTORS)
            before, after, bound = self.before[name], self.after[name], self.before[name] + AT_REST
            yield name, "file descriptors, before and after", before, after, max(descriptors), bound, after <= bound


def judged(values, share, some):
    quarter = max(1, len(values) // 4)
    first, last = statistics.median(values[:quarter]), statistics.median(values[-quarter:])
    bound = first * (1 + share) + some
    return first, last, max(values), bound, last <= bound


def sample(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    kibibytes = int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1))
    return Sample(kibibytes / 1024, len(os.listdir(f"/proc/{pid}/fd")))
