"""What have the processes said? Warnings that the faults and changes must bring are expected; any other is news."""

import json
import pathlib

EXPECTED = (
    "cannot refresh the issuer's keys",
    "no token: ",
    "no policy from the control plane",
    "the acknowledgement was not accepted",
    # Key and certificate are replaced one after the other.
    "the last good ",
)


def news(processes):
    """Unexpected lines, each once with its number."""
    found = {}
    for name, process in processes.items():
        for line in pathlib.Path(process.log).read_text(errors="replace").splitlines():
            said = told(line)
            if said and not said.startswith(EXPECTED):
                found[f"{name}: {said}"] = found.get(f"{name}: {said}", 0) + 1
    return [f"{line} ({count} times)" for line, count in found.items()]


def told(line):
    """What a line warns of, or None."""
    try:
        entry = json.loads(line)
    except ValueError:
        # The words of a panic are no JSON.
        return line if "panicked" in line else None
    if entry.get("level") not in ("WARN", "ERROR"):
        return None
    fields = entry["fields"]
    return " ".join(str(fields[key]) for key in ("message", "error") if key in fields)
