"""What came out? The Markdown table: minimum, median and maximum over the rounds, and ratios of each round's own pair."""

import datetime
import os
import pathlib
import platform
import re
import statistics

ROADS = {
    "inbound": "Inbound: an RS256 token is verified, a policy of 20 rules decides",
    "outbound": "Outbound: a bearer token by client credentials is attached",
    "plain": "Plain: no authentication",
}


def markdown(field, measured, installed, options):
    lines = ["# CPU per request, side by side", "", *method(installed, options), ""]
    for road, title in ROADS.items():
        entries = [one for one in field if one.road == road]
        if entries:
            lines += [f"## {title}", "", *table(entries, measured), ""]
    lines += authentication(field, measured)
    return "\n".join(lines).rstrip("\n") + "\n"


def method(installed, options):
    return [
        f"Written by `./benches/compare` on {today()}: {options.rounds} interleaved rounds of {options.seconds} s each. "
        f"The proxy alone on core 1 with one worker; wrk with {options.connections} keep-alive connections in a closed loop "
        "and the application (nginx, 128 bytes) on core 0. CPU time is that of the proxy's process, user and system, all "
        "threads, divided by the requests that wrk completed. HTTP/1.1 in clear text on loopback. The configurations are in "
        "`benches/envoy`, `haproxy`, `nginx` and `policies`; each was checked first for what it must refuse and accept. "
        "Compare ratios, not machines; differences under 10 % are not shown here.",
        "",
        surroundings(installed.versions),
    ]


def today():
    return datetime.datetime.now(datetime.timezone.utc).date()


def surroundings(versions):
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    model = re.search(r"model name\s*:\s*(.+)", pathlib.Path("/proc/cpuinfo").read_text())
    return (
        f"{named}; {model.group(1) if model else platform.machine()}, {os.cpu_count()} CPUs, Linux {platform.release()}; "
        f"load average over the last five minutes of the run {os.getloadavg()[1]:.1f} (about 2 on a machine without other work)."
    )


def table(entries, measured, rate="requests/s"):
    """Ratios are Countersign's to the peer in the same round."""
    ours = next((one for one in entries if one.name == "Countersign"), None)
    rows = [f"| | | min | median | max µs | Countersign to it, median (min to max) | {rate}, median |", "|---|---|---|---|---|---|---|"]
    for entry in entries:
        costs = [one.microseconds for one in measured[entry]]
        per_second = statistics.median(one.per_second for one in measured[entry])
        rows.append(
            f"| {entry.name} | {entry.does} | {min(costs):.1f} | **{statistics.median(costs):.1f}** | {max(costs):.1f} | "
            f"{ratio(ours, entry, measured)} | {per_second:,.0f} |"
        )
    return rows


def ratio(ours, peer, measured):
    if ours is None or ours is peer:
        return ""
    ratios = [a.microseconds / b.microseconds for a, b in zip(measured[ours], measured[peer])]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def authentication(field, measured):
    """What verifying and deciding add to each proxy's own plain road."""
    rows = []
    for name in ("Countersign", "Envoy"):
        pair = {one.road: one for one in field if one.name == name}
        if "plain" in pair and "inbound" in pair:
            differences = [a.microseconds - b.microseconds for a, b in zip(measured[pair["inbound"]], measured[pair["plain"]])]
            rows.append(f"| {name} | {min(differences):.1f} | **{statistics.median(differences):.1f}** | {max(differences):.1f} |")
    if not rows:
        return []
    return ["## What authentication and policy add: inbound less plain", "", "| | min | median | max µs |", "|---|---|---|---|", *rows]
