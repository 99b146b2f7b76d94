"""What came out? A Markdown paragraph, the tables, and whether all of it is as it should be."""

import collections
import os
import platform

from judge import EXAMPLES


def markdown(run):
    judge, changes = run.judge, run.changes.counts
    faults = collections.Counter((event["link"], event["kind"]) for event in run.events)
    lines = [
        "# Soak",
        "",
        f"{run.options.seconds} s, seed {run.seed}: {run.asked:,} requests ({run.rate:.0f} each second, where all parts together took "
        f"{run.full:.0f}), **{len(judge.wrong)} wrong, {len(judge.lost)} lost**. {judge.right:,} were answered as without any fault, "
        f"{run.excused:,} with what a fault explains, of {len(run.events):,} exchanges with one; {run.skipped:,} were not sent since all "
        f"callers were busy. Replaced: {', '.join(f'{count:,} {what}' for what, count in changes.items())}; policy applied "
        f"{run.applied['checkout']:.0f} times by the sidecar of checkout, {run.applied['orders']:.0f} by that of orders; "
        f"{run.shown} certificates shown to callers.",
        "",
        f"{os.cpu_count()} CPUs, Linux {platform.release()}, load average {os.getloadavg()[1]:.1f} over the last five minutes: callers, fault "
        "proxies, servers and sidecars share them, so the rate is not the sidecar's own.",
        "",
        *growth(run.growth),
        "",
        "| link | " + " | ".join(kinds := sorted({kind for _, kind in faults})) + " |",
        "|---|" + "---|" * len(kinds),
        *(f"| {link} | " + " | ".join(str(faults[link, kind]) for kind in kinds) + " |" for link in sorted({link for link, _ in faults})),
        "",
        *answers(judge.answers),
        *repeated(judge.repeated),
        *troubles("wrong", judge.wrong),
        *troubles("lost", judge.lost),
        *troubles("broken", run.broken),
    ]
    return "\n".join(lines) + "\n"


def growth(rows):
    lines = ["| | | first quarter, median | last quarter, median | most | bound | |", "|---|---|---|---|---|---|---|"]
    for name, what, first, last, most, bound, flat in rows:
        lines.append(f"| {name} | {what} | {first:.1f} | {last:.1f} | {most:.1f} | {bound:.1f} | {'flat' if flat else '**grows**'} |")
    return lines


def answers(counted):
    lines = ["| road | status | reason, or what went wrong | answers |", "|---|---|---|---|"]
    for (road, status, reason), count in sorted(counted.items(), key=str):
        lines.append(f"| {road} | {status} | {reason or ''} | {count:,} |")
    return lines


def repeated(counted):
    """What reached the application more than once."""
    told = ", ".join(f"{count:,} {times} times ({road})" for (road, times), count in sorted(counted.items(), key=str))
    return ["", f"Reached the application oftener than once: {told or 'nothing'}."]


def troubles(title, found):
    more = [f"- ... and {len(found) - EXAMPLES} more"] if len(found) > EXAMPLES else []
    return ["", f"## {title}", "", *(f"- {one}" for one in found[:EXAMPLES]), *more] if found else []
