"""When is which link ill, and how? All of it follows from the seed, so a run can be had again."""

import dataclasses
import random

# What may happen to an exchange: bytes of a request and of its answer.
DELAY = "delay"  # the request waits a moment, and passes
REFUSE = "refuse"  # the connection is reset before anything is read; one that is open already, as by the next
RESET = "reset"  # ... when the request has arrived
HALF_OPEN = "half-open"  # nothing of the request gets further, and nothing is said
TRUNCATE = "truncate"  # the answer ends early, with FIN
BREAK = "break"  # ... with RST
GARBAGE = "garbage"  # random bytes in the place of the answer
DRIP = "drip"  # the answer comes byte by byte for a while
SURPLUS = "surplus"  # behind the answer comes another one that nobody asked for
KINDS = (DELAY, REFUSE, RESET, HALF_OPEN, TRUNCATE, BREAK, GARBAGE, DRIP)
# On a link of plain HTTP/1.1.
PLAIN = (*KINDS, SURPLUS)
# What leaves the bytes of a request as they were, so that answers can still be judged.
FAITHFUL = (DELAY, REFUSE, RESET, HALF_OPEN, TRUNCATE, BREAK, DRIP)

# Seconds.
QUIET = (3.0, 8.0)
ILL = (1.0, 3.0)


@dataclasses.dataclass(frozen=True)
class Window:
    """A time in which some exchanges of a link go wrong; seconds from the start."""

    begin: float
    end: float
    kind: str
    share: float  # of the exchanges


def windows(seed, link, kinds, seconds, sparse=False):
    """Each kind once, then each once again in another order, to the end. A link of few exchanges is ill for all of them."""
    chance = random.Random(f"{seed}/{link}")
    found, deck, at = [], [], 0.0
    while True:
        begin = at + chance.uniform(*QUIET)
        at = begin + chance.uniform(*ILL)
        if at > seconds:
            return found
        if not deck:
            deck = chance.sample(kinds, len(kinds))
        found.append(Window(begin, at, deck.pop(), 1.0 if sparse else chance.choice((0.1, 0.3, 1.0))))


class Draw:
    """What happens to the exchanges of one connection of a link."""

    def __init__(self, seed, link, number, schedule):
        self.chance = random.Random(f"{seed}/{link}/{number}")
        self.schedule = schedule

    def next(self, now):
        """The kind of fault that befalls the exchange that begins now, or None."""
        luck = self.chance.random()
        window = next((one for one in self.schedule if one.begin <= now < one.end), None)
        return window.kind if window and luck < window.share else None
