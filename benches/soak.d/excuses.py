"""Does a fault explain an answer? Each fault of a connection that carries one request at a time explains one answer and no more;
of the connections to the application it is known which carried whose request."""

import collections
import dataclasses
import sys

# Of clocks, and of tasks that wait for their turn, in seconds.
SLACK = 0.5
# Answers that have to make room for each other, one after the other.
LONGEST_CHAIN = 50_000


@dataclasses.dataclass(eq=False)
class Excuse:
    """An answer that is right if a fault of these kinds was on one of these links meanwhile."""

    links: tuple
    kinds: frozenset
    begin: float
    end: float
    nonce: str
    # One fault may explain any number of these.
    shared: bool = False
    # Without a connection to the application there is no such answer.
    arrived: bool = False


def unexplained(excuses, events, ports):
    """Those that no fault explains, when the faults are shared out so that they explain as many as they can. `ports` are those
    from which a nonce reached the application."""
    sys.setrecursionlimit(LONGEST_CHAIN)
    by_second = index(events)
    found, taken = set(), {}
    for one in sorted(excuses, key=lambda one: one.begin):
        near = {number for link in one.links for second in seconds(one.begin, one.end) for number in by_second[link, second]}
        one.fits = sorted(number for number in near if explains(events[number], one, ports.get(one.nonce)))
        if not any(one.shared or events[number]["shared"] for number in one.fits) and not give(one, taken, set()):
            found.add(one)
    return found


def index(events):
    """The numbers of the events of a link that touch a second."""
    found = collections.defaultdict(list)
    for number, event in enumerate(events):
        for second in seconds(event["begin"], event["end"]):
            found[event["link"], second].append(number)
    return found


def seconds(begin, end):
    return range(int(begin - SLACK), int(end + SLACK) + 1)


def explains(event, one, ports):
    meanwhile = event["begin"] <= one.end + SLACK and one.begin <= event["end"] + SLACK
    # What never arrived may have been under way on any connection.
    theirs = event["link"] != "application" or (str(event["from"]) in ports if ports else not one.arrived)
    return meanwhile and theirs and event["link"] in one.links and event["kind"] in one.kinds


def give(one, taken, tried):
    """Gives it a fault that is free, or can be had from another answer that takes another one (a matching, by Kuhn)."""
    free = next((number for number in one.fits if number not in taken), None)
    if free is not None:
        taken[free] = one
        return True
    for number in one.fits:
        if number not in tried:
            tried.add(number)
            if give(taken[number], taken, tried):
                taken[number] = one
                return True
    return False
