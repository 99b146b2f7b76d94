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

    async def run(self, ending):
        while not ending.is_set():
            for name, pid in self.pids.items():
                self.taken[name].append(sample(pid))
            await asyncio.sleep(1)

    def growth(self):
        """For each process and measure: first, last, maximum, bound, and whether it is flat."""
        for name, taken in self.taken.items():
            warm = taken[WARM_UP:] if len(taken) > 4 * WARM_UP else taken
            yield name, "RSS, MiB", *judged([one.mebibytes for one in warm], MEMORY_SHARE, MEMORY_MIB)
            yield name, "file descriptors", *judged([one.descriptors for one in warm], DESCRIPTORS_SHARE, DESCRIPTORS)


def judged(values, share, some):
    quarter = max(1, len(values) // 4)
    first, last = statistics.median(values[:quarter]), statistics.median(values[-quarter:])
    bound = first * (1 + share) + some
    return first, last, max(values), bound, last <= bound


def sample(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    kibibytes = int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1))
    return Sample(kibibytes / 1024, len(os.listdir(f"/proc/{pid}/fd")))
