"""How is the table of attacks written? One row each: what was sent, what we do, what others do."""

import dataclasses
import re

from attacks import KINDS, written

# What the proxies say of themselves and of the client.
ADDED = re.compile(
    r"¶(?:x-forwarded-(?:for: 127\.0\.0\.1|proto: http)|x-envoy-[a-z-]+: [^¶]*|x-request-id: [^¶]*|via: [^¶]*)(?=¶)", re.I
)


@dataclasses.dataclass
class Outcome:
    answers: list
    closed: bool
    shapes: list
    is_cut: bool

    def __str__(self):
        statuses = [str(status) for status, _ in self.answers]
        if not self.shapes:
            return (statuses[0] if statuses else "no answer") + (", closed" if self.closed else "")
        # The last one is what is behind, where that came through.
        shapes = [shape for shape in self.shapes if not shape.lower().startswith("get /behind ")]
        if not shapes:
            return (statuses[0] if statuses else "no answer")
        return "passes" + (", then closed" if self.closed else "") + ": " + " **and** ".join(code(s) for s in shapes)

    def passes(self):
        return any(not shape.lower().startswith("get /behind ") for shape in self.shapes)


@dataclasses.dataclass
class Column:
    name: str
    version: str
    outcomes: dict


def shape(request, host):
    """What the upstream saw, without what the proxy added of its own."""
    return ADDED.sub("", written(request)).replace(host, "HOST")


def code(text):
    """The same, and short."""
    text = re.sub(r"(.)\1{40,}", lambda m: f"<{m[1]}*{len(m[0])}>", text)
    return cell(text if len(text) <= 300 else text[:300] + "…")


def cell(text):
    """In a cell of a table: no bar, no backtick of its own."""
    return "`" + text.replace("`", "'").replace("|", "\\|") + "`"


def ours(outcome):
    """As the tables say it."""
    word, _, rest = outcome.partition(" ")
    return {
        "refused": f"`{rest}`, closed",
        "denied": f"`{rest}`",
        "unparsed": f"{rest}, closed",
        "broken": "`bad_request` in the body, closed",
        "binary": "closed",
        "passes": "passes: " + code(rest),
        "last": "passes, then closed: " + code(rest),
        "then-refused": "passes, then 400 and closed: " + code(rest),
        "swallows": "passes: " + code(rest),
    }[word]


def passes(outcome):
    return outcome.split(" ")[0] in ("passes", "last", "then-refused", "swallows")


def markdown(attacks, columns):
    versions = ", ".join(f"{column.name} {column.version}" for column in columns)
    lines = [
        "# Attacks on HTTP/1.1",
        "",
        f"What comes of {len(attacks)} of them, each followed at once by a request of its own that has to be answered or not. Written by",
        f"`./tests/attacks/reference` from the tables in [attacks](attacks), with {versions} in their default",
        "configuration beside it. Our own column is held to the sidecar by `attacks::` in `tests/integration`, where an upstream accounts",
        "for every byte. `¶` is CRLF, `HOST` the host that is meant; [attacks](attacks/README.md) says how outcomes are written. What passes here and in",
        "none of the others says why.",
    ]
    for kind in KINDS:
        lines += ["", f"## {title(kind)}", ""]
        lines += ["| attack | sent | Countersign | " + " | ".join(c.name for c in columns) + " |", "|---" * (3 + len(columns)) + "|"]
        for attack in (a for a in attacks if a.kind == kind):
            theirs = [column.outcomes[attack.sent] for column in columns]
            name = attack.name.replace("|", "\\|")
            if attack.because:
                name += f": *{attack.because}*"
            cells = [name, cell(attack.sent), cell(attack.inbound), *map(str, theirs)]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def alone(attacks, columns):
    """Names of those that pass here and nowhere else, without a word on why."""
    elsewhere = lambda attack: any(column.outcomes[attack.sent].passes() for column in columns)
    return [one.name for one in attacks if passes(one.inbound) and not one.because and not elsewhere(one)]


def title(kind):
    from attacks import HERE

    return (HERE / f"{kind}.txt").read_text().splitlines()[0].removeprefix("# ")
