"""What came out? One table that compares, one that tells all."""

import math

import report
import verdicts
from proxies import NAMES


def markdown(floods, measured, versions, options):
    lines = ["# Under floods, beside nginx and HAProxy", "", *method(versions, options), ""]
    lines += ["## What other clients see, and memory", "", *compared(floods, measured), ""]
    lines += ["## Every flood of every proxy", "", *told(floods, measured)]
    bad = verdicts.failures(measured, floods)
    lines += ["", "Not held:", "", *[f"- {line}" for line in bad]] if bad else ["", "All held."]
    unjudged = [flood.name for flood in floods if verdicts.busy(one for (of, _), one in measured.items() if of == flood)]
    if unjudged:
        lines += ["", f"The machine was too busy to judge times under {', '.join(unjudged)}."]
    return "\n".join(lines) + "\n"


def method(versions, options):
    return [
        f"Written by `./benches/floods{' --quick' if options.quick else ''}` on {report.today()}, {options.rounds} round(s). One proxy at a time, with one worker, "
        "alone on core 1 and started anew for each flood; attacker, other clients and the application (nginx) on core 0. A flood of connections "
        "is first made once in each round against the last of them without being measured, since the first who wants so much memory of a machine pays for it. Attackers send at "
        "the stated rate, whatever the proxy does with it: who is turned away comes again a hundredth of a second later. Other clients ask for 128 bytes "
        f"{options.rate} times a second in an open loop, by HTTP/1.1, HTTP/2 and new connections (47 : 47 : 6); their time runs from when a request was due. "
        "Memory is resident memory of the proxy's processes, read 50 times a second; CPU is what the flood cost the proxy beyond the requests; waited is how long it was ready while others had the CPU, and above zero "
        "the times of that row are the machine's as much as the proxy's. "
        "All in clear text on loopback unless it says TLS. The configurations are `floods` in `benches/haproxy`, `nginx` and `policies`: "
        "20 paths that anybody may ask for, at most 100 streams, heads within 10 s. The sidecar speaks HTTP/2 to the application where its "
        "caller does, the peers HTTP/1.1. Columns in threes are the sidecar, nginx and HAProxy; pairs are HTTP/1.1 / HTTP/2.",
        "",
        f"Held is a p99 of other clients that is not above {verdicts.FACTOR} times that of both peers (or of its own before the flood) and "
        f"{verdicts.MILLISECONDS:.0f} ms more, failed requests no more than theirs and {verdicts.SHARE:.0%}, memory within the bound, and a log that grows by less than "
        f"{verdicts.LOG:.0f} KiB. Times are not judged where a proxy waited for the CPU for more than {verdicts.BUSY:.0%} of a flood: "
        "other work was on the machine.",
        "",
        report.surroundings(versions),
    ]


def compared(floods, measured):
    rows = [
        "| Flood | a second | p99 ms: Countersign | nginx | HAProxy | to the better | failed % | | | MiB more | at most | | |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for flood in floods:
        turns = [measured.get((flood, name)) for name in NAMES]
        p99 = [one and " / ".join(f"{verdicts.p99(one, kind):.1f}" for kind in verdicts.KINDS) for one in turns]
        lost = [one and f"{100 * verdicts.lost(one):.1f}" for one in turns]
        ours, *more = [one and f"{verdicts.growth(one):.1f}" for one in turns]
        ratios = [verdicts.ratio(measured, flood, kind) for kind in verdicts.KINDS]
        ratio = None if None in ratios else f"**{' / '.join(f'{one:.2f}' for one in ratios)}**"
        cells = [flood.title, f"{flood.rate:,.0f} {flood.unit}", *p99, ratio, *lost, ours, f"{flood.mib:.0f}", *more]
        rows.append(f"| {' | '.join(cell or '' for cell in cells)} |")
    return rows


def told(floods, measured):
    rows = [
        "| Flood | | sent | what became of it | p50 / p99 ms before | HTTP/1.1 | HTTP/2 | new | after | failed | back after ms | CPU s | waited s | log KiB | MiB before, most, after | KiB each |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for flood in floods:
        for name in NAMES:
            if (flood, name) in measured:
                # The round in the middle stands for all.
                turns = sorted(measured[flood, name], key=lambda one: one.seen["during"]["HTTP/2"][1])
                rows.append(row(flood, name, turns[len(turns) // 2]))
    return rows


def row(flood, name, turn):
    pair = lambda both: "" if math.isnan(both[0]) else f"{both[0]:.1f} / {both[1]:.1f}"
    during = turn.seen["during"]
    attack = turn.attack
    before, most, after = turn.memory
    each = f"{(most - before) * 1024 / attack['connections']:.1f}" if flood.unit == "connections" and flood.count >= 500 else ""
    back = "never" if math.isinf(turn.recovery) else f"{turn.recovery:.0f}"
    return (
        f"| {flood.name} | {name} | {attack['sent']:,} | {fate(attack)} | {pair(turn.seen['before']['HTTP/1.1'])} | "
        f"{' | '.join(pair(during[kind]) for kind in during)} | {pair(turn.seen['after']['HTTP/1.1'])} | {turn.failed} | {back} | "
        f"{turn.cpu:.3f} | {turn.waited:.2f} | {turn.log:.0f} | {before:.1f}, {most:.1f}, {after:.1f} | {each} |"
    )


def fate(attack):
    if "kept" in attack:
        said = f"{attack['kept']:,} of {attack['connections']:,} still open"
        others = "" if attack["fate"] == "open" else f"; {attack['fate']}"
        return said + others + (f"; {attack['refused']} refused" if attack["refused"] else "")
    if attack["fate"] == "open":
        said = "open to the end" + (", held back" if attack["held_back"] else "")
    else:
        said = f"{attack['fate']} within {attack['after']:,}; {attack['connections']} connections"
    resets = ", ".join(f"{number:,} × {code}" for code, number in attack["resets"].items())
    return said + (f"; streams reset: {resets}" if resets else "")
