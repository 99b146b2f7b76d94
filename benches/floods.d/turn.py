"""What happened in one flood of one proxy? Other clients ask before, during and after; memory and CPU are read all the while."""

import collections
import contextlib
import dataclasses
import json
import pathlib
import statistics
import subprocess
import sys
import threading
import time

from contestants import LOAD_CORE
from failure import Failure
from process import family

KINDS = ("HTTP/1.1", "HTTP/2", "new")
SETTLE = 1.0
WINDOW = 0.1
SAMPLE = 0.02


@dataclasses.dataclass
class Turn:
    """Times in milliseconds, CPU in seconds, memory in MiB, log in KiB. `seen` is phase -> kind -> (p50, p99)."""

    attack: dict
    seen: dict
    asked: int  # since the flood began
    failed: int
    recovery: float
    cpu: float
    waited: float  # for a CPU that others had
    memory: tuple
    log: float


def turn(stage, flood, name, options):
    with stage.proxy(name) as proxy, clients(stage, proxy, options.rate) as asking:
        time.sleep(SETTLE)
        began = time.monotonic()
        with Watch(proxy.process) as watch:
            time.sleep(options.around)
            attack = attacked(stage, flood, proxy)
            time.sleep(options.around)
        ended = time.monotonic()
        seen = finish(asking)
    return judged(attack, seen, began, ended, watch)


@contextlib.contextmanager
def clients(stage, proxy, rate):
    child = spawn(stage, "clients.py", proxy.http1, proxy.http2, rate, stdin=subprocess.PIPE)
    try:
        yield child
    finally:
        end(child)


def attacked(stage, flood, proxy):
    child = spawn(stage, "attack.py", flood.name, proxy.http1, proxy.http2, proxy.tls, flood.count, flood.seconds)
    try:
        said, _ = child.communicate(timeout=flood.seconds * 2 + 90)
    except subprocess.TimeoutExpired as error:
        raise Failure(f"{flood.name} against {proxy.name} did not end") from error
    finally:
        end(child)
    if child.returncode != 0:
        raise Failure(f"{flood.name} against {proxy.name} failed; see above")
    return json.loads(said)


def spawn(stage, program, *argv, stdin=subprocess.DEVNULL):
    command = ["taskset", "-c", str(LOAD_CORE), sys.executable, "-B", stage.here / "floods.d" / program, *argv]
    return subprocess.Popen(list(map(str, command)), stdin=stdin, stdout=subprocess.PIPE, text=True)


def finish(child):
    said, _ = child.communicate(timeout=30)
    if child.returncode != 0:
        raise Failure("the other clients failed; see above")
    return json.loads(said)


def end(child):
    if child.poll() is None:
        child.kill()
        child.wait()


Sample = collections.namedtuple("Sample", "at memory cpu waited log")


class Watch:
    """Resident memory and CPU time of a proxy's processes, read fifty times a second."""

    def __init__(self, process):
        # Who serves was started before anybody asked.
        self.process, self.pids, self.samples = process, family(process.child.pid), []

    def __enter__(self):
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()

    def run(self):
        while True:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                used, waited = map(sum, zip(*map(scheduled, self.pids)))
                log = pathlib.Path(self.process.log).stat().st_size / 1024
                self.samples.append(Sample(time.monotonic(), sum(map(resident, self.pids)), used, waited, log))
            if self.over.wait(SAMPLE):
                return

    def between(self, began, ended):
        return [one for one in self.samples if began <= one.at <= ended] or self.samples[-1:]


def resident(pid):
    """MiB (proc(5))."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def scheduled(pid):
    """Seconds on a CPU, and in wait for one, of all threads: finer than the ticks of /proc/PID/stat."""
    tasks = [list(map(int, file.read_text().split()[:2])) for file in pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat")]
    return [sum(column) / 1e9 for column in zip(*tasks)]


def judged(attack, seen, began, ended, watch):
    start, stop = attack["began"], attack["ended"]
    phases = {"before": (began, start), "during": (start, stop), "after": (stop, ended)}
    within = lambda phase: [one for one in seen if phases[phase][0] <= one[1] < phases[phase][1]]
    told = {phase: {kind: quantiles([one for one in within(phase) if one[0] == kind]) for kind in KINDS} for phase in phases}
    calm, hit = watch.between(began, start), watch.between(start, stop)
    last = watch.samples[-1]
    answered = lambda samples: sum(samples[0].at <= one[1] + one[2] < samples[-1].at for one in seen)
    request = (calm[-1].cpu - calm[0].cpu) / max(1, answered(calm))
    return Turn(
        attack=attack,
        seen=told,
        asked=len(within("during") + within("after")),
        failed=sum(not one[3] for one in within("during") + within("after")),
        recovery=recovery(within("before"), seen, stop, ended),
        cpu=max(0.0, hit[-1].cpu - hit[0].cpu - request * answered(hit)),
        waited=hit[-1].waited - hit[0].waited,
        memory=(calm[-1].memory, max(one.memory for one in hit), last.memory),
        log=last.log - calm[-1].log,
    )


def quantiles(some):
    """The median and the 99th percentile, in milliseconds."""
    times = sorted(one[2] * 1000 for one in some)
    if not times:
        return (float("nan"), float("nan"))
    return (statistics.median(times), times[min(len(times) - 1, int(len(times) * 0.99))])


def recovery(before, seen, stop, ended):
    """After the end of the flood, until the median over a tenth of a second is at most twice what it was, and a millisecond."""
    good = quantiles(before)[0] * 2 + 1
    at = stop
    while at < ended - WINDOW:
        if not quantiles([one for one in seen if at <= one[1] < at + WINDOW])[0] > good:
            return (at - stop) * 1000
        at += WINDOW
    return float("inf")
