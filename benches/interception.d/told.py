"""What came out? A table for each road, in the form of ./compare's."""

import report

# Title, unit of the rate.
ROADS = {
    "redirect": ("Out, redirected: a bearer token is attached", "requests/s"),
    "forward": ("Out, by forward proxy: the same, asked for in absolute form", "requests/s"),
    "originate": ("Out, redirected, and TLS originated: the same over TLS 1.3, connections kept", "requests/s"),
    "opened": ("Out, redirected, a connection for each request", "requests/s"),
    "inbound": ("In, redirected: an RS256 token is verified, a rule decides", "requests/s"),
    "up": ("Passed untouched, redirected: one stream out, CPU µs per MiB", "MiB/s"),
    "down": ("Passed untouched, redirected: one stream in answer, CPU µs per MiB", "MiB/s"),
}


def markdown(field, measured, installed, options):
    lines = ["# What interception costs, beside Envoy's original_dst", "", *method(installed, options), ""]
    for road, (title, rate) in ROADS.items():
        entries = [one for one in field if one.road == road]
        if entries:
            lines += [f"## {title}", "", *report.table(entries, measured, rate), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def method(installed, options):
    versions = {name: version for name, version in installed.versions.items() if name != "HAProxy"}
    return [
        f"Written by `./benches/interception` on {report.today()}: {options.rounds} interleaved rounds of {options.seconds} s each. "
        "Each proxy is the sidecar of a simulated pod (a network namespace) whose connections the same `countersign-proxy init` "
        "redirects, and runs as a user of its own on core 1 with one worker; wrk with "
        f"{options.connections} connections in a closed loop, or one stream in pieces of 256 KiB, and the application "
        "(nginx, 128 bytes) in another namespace behind a veth pair and a bridge, on core 0. CPU time is that of the proxy's process, "
        "user and system, all threads, divided by the requests that wrk completed or the MiB that both ends counted. It counts what "
        "the process used and not how long that took, so other work on the machine moves the rates at the right (they are no "
        "measure of anything here) far more than the costs, and both proxies alike. The configurations are `interception` in "
        "`benches/envoy`, `nginx` and `policies`; each was checked first for what it must refuse and accept. Compare ratios, not machines; "
        "differences under 10 % are not shown here.",
        "",
        report.surroundings(versions),
    ]
