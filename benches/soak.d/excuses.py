"""Does a fault explain an answer? Each fault of a connection that carries one request at a time explains one answer and no more."""

import dataclasses

# Of clocks, and of tasks that wait for their turn, in seconds.
SLACK = 0.5


@dataclasses.dataclass(eq=False)
class Excuse:
    """An answer that is right if a fault of these kinds was on one of these links meanwhile."""

    links: tuple
    kinds: frozenset
    begin: float
    end: float
    # One fault may explain any number of these.
    shared: bool = False


def unexplained(excuses, events):
    """Those that no fault explains, when the faults are shared out so that they explain as many as they can."""
    found, taken = set(), {}
    for one in sorted(excuses, key=lambda one: one.begin):
        one.fits = [number for number, event in enumerate(events) if explains(event, one)]
        if not any(one.shared or events[number]["shared"] for number in one.fits) and not give(one, taken, set()):
            found.add(one)
    return found


def explains(event, one):
    meanwhile = event["begin"] <= one.end + SLACK and one.begin <= event["end"] + SLACK
    return meanwhile and event["link"] in one.links and event["kind"] in one.kinds


def give(one, taken, tried):
    """Gives it a fault that is free, or can be had from another answer that takes another one (a matching, by Kuhn)."""
    for number in one.fits:
        if number not in tried:
            tried.add(number)
            if number not in taken or give(taken[number], taken, tried):
                taken[number] = one
                return True
    return False
