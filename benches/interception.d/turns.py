"""What did a request, or a MiB, cost in one turn? Puts one road of one sidecar under load and reads the sidecar's CPU time."""

import sys
import time

import load
from contestants import LOAD_CORE
from failure import Failure
from pods import APPLICATION
from prove import PATH

MIB = 1024 * 1024
LEAST = 20e-6


def turn(contestant, stage, connections, seconds):
    if contestant.road in ("up", "down"):
        return stream(contestant, stage, seconds)
    pod, token = contestant.sidecar.pod, ["-H", f"Authorization: Bearer {stage.token}"]
    where, more = {
        "redirect": (pod, [f"http://stock.shop:8080{PATH}"]),
        "forward": (pod, ["-s", stage.here / "interception.d/absolute.lua", f"http://127.0.0.1:{contestant.sidecar.forward_port}"]),
        "originate": (pod, [f"http://stock.shop:8443{PATH}"]),
        "opened": (pod, ["-H", "Connection: close", f"http://stock.shop:8080{PATH}"]),
        "inbound": (stage.net.world, [*token, f"http://{pod.address}:8080{PATH}"]),
    }[contestant.road]
    # Other work on the machine may keep an answer for seconds.
    wrk = [stage.installed.wrk, "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", *more]
    return load.wrk(contestant, pinned(where.argv(APPLICATION, *wrk)))


def stream(contestant, stage, seconds):
    client = [sys.executable, stage.here / "interception.d/streams.py", contestant.road, stage.net.world.address, 9000, seconds]
    before, since = contestant.process.cpu_seconds(), time.monotonic()
    done = load.run(pinned(contestant.sidecar.pod.argv(APPLICATION, *client)))
    used, took = contestant.process.cpu_seconds() - before, time.monotonic() - since
    if done.returncode != 0:
        raise Failure(f"{contestant.name}, {contestant.road}: {done.stdout}{done.stderr}")
    mib = int(done.stdout) / MIB
    # Some system calls and packets for each MiB are the least that whoever carries it must pay.
    if used / mib < LEAST:
        raise Failure(f"{contestant.name}, {contestant.road}: the stream went around the sidecar")
    return load.Measurement(used / mib * 1e6, mib / took)


def pinned(argv):
    return ["taskset", "-c", str(LOAD_CORE), *argv]
