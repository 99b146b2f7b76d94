"""What does a request cost? The contestants take turns under wrk; CPU time comes from the process's own accounting."""

import dataclasses
import re
import subprocess
import sys

from checks import PATH
from contestants import LOAD_CORE
from failure import Failure


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One turn of one contestant."""

    microseconds: float  # CPU of the proxy for each request (or MiB)
    per_second: float


def rounds(field, turn, number, seconds):
    """Interleaved, A B C A B C ..., so that what the machine does meanwhile meets all alike."""
    measured = {contestant: [] for contestant in field}
    for contestant in field:
        turn(contestant, 1)
    for current in range(1, number + 1):
        for contestant in field:
            one = turn(contestant, seconds)
            measured[contestant].append(one)
            print(
                f"round {current}   {contestant.road:9} {contestant.name:12} "
                f"{one.microseconds:6.1f} µs CPU each {one.per_second:8.0f} each second",
                file=sys.stderr,
            )
    return measured


def turn(contestant, stage, connections, seconds):
    argv = ["taskset", "-c", str(LOAD_CORE), stage.installed.wrk, "-t1", f"-c{connections}", f"-d{seconds}s"]
    if contestant.road == "inbound":
        argv += ["-H", f"Authorization: Bearer {stage.token}"]
    host = f"localhost:{stage.ports['backend_port']}" if contestant.road == "outbound" else "orders.shop"
    argv += ["-H", f"Host: {host}", f"http://127.0.0.1:{contestant.port}{PATH}"]
    return wrk(contestant, argv)


def wrk(contestant, argv):
    before = contestant.process.cpu_seconds()
    done = run(argv)
    used = contestant.process.cpu_seconds() - before

    counted = re.search(r"(\d+) requests in", done.stdout)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    if done.returncode != 0 or not counted or not rate or int(counted.group(1)) == 0:
        raise Failure(f"{contestant.name}, {contestant.road}: wrk failed: {done.stdout}{done.stderr}")
    for trouble in ("Non-2xx", "Socket errors"):
        line = next((line for line in done.stdout.splitlines() if trouble in line), None)
        if line:
            raise Failure(f"{contestant.name}, {contestant.road}: not every request was answered with 200: {line.strip()}")
    return Measurement(used / int(counted.group(1)) * 1e6, float(rate.group(1)))


def run(argv):
    return subprocess.run(list(map(str, argv)), capture_output=True, text=True)
