"""Did the sidecar stand it? Compares what other clients saw, and holds its memory and its log to their bounds."""

import statistics

from proxies import NAMES

OURS, *PEERS = NAMES
# New connections are too few for a 99th percentile.
KINDS = ("HTTP/1.1", "HTTP/2")
# Worse than both peers by this factor, and by these milliseconds, is a failure, where it is worse than before the flood too;
# less is not shown here.
FACTOR = 1.5
MILLISECONDS = 2.0
# Of the flood, this much wait for a CPU that others had is too much to judge times by.
BUSY = 0.1
# Requests that failed or were not answered, of all: more than both peers by this is a failure.
SHARE = 0.01
# What one flood may write to the log, in KiB.
LOG = 256.0


def p99(turns, kind, phase="during"):
    return statistics.median(one.seen[phase][kind][1] for one in turns)


def lost(turns):
    return statistics.median(one.failed / max(1, one.asked) for one in turns)


def growth(turns):
    """The worst of the rounds: a bound is a bound."""
    return max(one.memory[1] - one.memory[0] for one in turns)


def ratio(measured, flood, kind):
    """Our p99 to that of the better peer; None without a peer."""
    ours, peers = measured.get((flood, OURS)), against(measured, flood)
    return p99(ours, kind) / min(p99(one, kind) for one in peers.values()) if ours and peers else None


def failures(measured, floods):
    """One line for each way in which the sidecar did not stand a flood as it should."""
    return [line for flood in floods if (flood, OURS) in measured for line in judged(measured, flood)]


def judged(measured, flood):
    ours, peers = measured[flood, OURS], against(measured, flood)
    for kind in KINDS if peers and not busy([ours, *peers.values()]) else ():
        times = {name: p99(one, kind) for name, one in peers.items()}
        if p99(ours, kind) > max([*times.values(), p99(ours, kind, "before")]) * FACTOR + MILLISECONDS:
            said = ", ".join(f"{name} {value:.1f} ms" for name, value in times.items())
            yield f"{flood.name}: p99 of other clients by {kind} {p99(ours, kind):.1f} ms; {said}"
    if lost(ours) > max([0, *map(lost, peers.values())]) + SHARE:
        yield f"{flood.name}: of other clients' requests, {lost(ours):.1%} failed"
    if growth(ours) > flood.mib:
        yield f"{flood.name}: resident memory grew by {growth(ours):.1f} MiB; the bound is {flood.mib:.0f}"
    written = max(one.log for one in ours)
    if written > LOG:
        yield f"{flood.name}: the log grew by {written:.0f} KiB; the bound is {LOG:.0f}"


def busy(all_turns):
    """Were the proxies not alone on their core? Then their times say little; what failed, memory and log say as much as ever."""
    return any(statistics.median(one.waited / (one.attack["ended"] - one.attack["began"]) for one in turns) > BUSY for turns in all_turns)


def against(measured, flood):
    return {name: measured[flood, name] for name in PEERS if (flood, name) in measured}
