"""Was the answer right? At once where nothing excuses it; what a fault may have caused waits for what the fault proxies say.

Right is one of the answers that the case allows, whole and with the words that belong to it. An upstream that is ill excuses
502, 503 and 504 with our reason, an issuer that is 503 `token_unavailable`; an upstream that broke off its answer excuses that
ours breaks off too. Nothing excuses a wrong body, a 200 for what is denied, a 401 or 403 for what is allowed, or silence, but for
a fault between the caller and us.
"""

import collections
import json
import time

import excuses
from cases import ALLOWED, FLIP
from schedule import BREAK, DELAY, DRIP, GARBAGE, HALF_OPEN, KINDS, REFUSE, RESET, SURPLUS, TRUNCATE

# What the sidecar may say of an upstream that is ill.
UPSTREAM = {(502, "upstream_unreachable"), (503, "upstream_unreachable"), (504, "upstream_timeout")}
# What it may say while the issuer is ill, and for as long after that as it waits before it asks again, in seconds.
NO_TOKEN = (503, "token_unavailable")
OUTAGE = 20.0
WITH_TOKEN = ("outbound", "multiplexed", "caller")
# What one who waits for an answer hears when the token that the first sidecar showed comes to its end (README, "Open streams").
ENDED = (401, "expired")
# Which faults end an exchange, and which end an answer that has begun.
ENDING = set(KINDS) - {DELAY, DRIP} | {SURPLUS}
CUTTING = {RESET, HALF_OPEN, TRUNCATE, BREAK, GARBAGE, DRIP}
SLOW = {DELAY, DRIP}
# How long such a token holds at least when it is sent (a tenth of its life and the leeway, less a second by rounding): shorter waits do
# not end by that, in seconds.
TOKEN_LEFT = 4.0
# An answer that takes longer is judged again when policy changes, and ends with what let it in, in seconds.
JUDGED_AGAIN = 1.0
# Examples of what is wrong that are kept.
EXAMPLES = 20


class Judge:
    def __init__(self):
        # Of the clock that events are told by.
        self.start = time.monotonic()
        self.right = 0
        self.answers = collections.Counter()
        self.excuses = []
        self.wrong = []
        self.lost = []
        self.denied = set()
        self.asked = {}
        # How often what was asked on which road went out again.
        self.repeated = collections.Counter()

    def hear(self, request, answer, begin, end):
        """One answer, and when it was asked for and there."""
        self.asked[request.nonce] = request.method, request.road
        if not request.reaches_application:
            self.denied.add(request.nonce)
        said = (answer.status, answer.reason)
        nonce = request.nonce
        # What has begun to be answered has arrived where answers come from, if that was not us.
        cut = excuses.Excuse(links(request), frozenset(CUTTING), begin, end, nonce, arrived=said == ALLOWED)
        if answer.status == 0:
            if request.road != "caller":
                return self.blame(self.lost, "no answer", request, answer)
            lost = excuses.Excuse(("caller",), frozenset(ENDING | SLOW), begin, end, nonce)
            return self.excuse_or(self.lost, "no answer", request, answer, lost)
        if said in request.may:
            if answer.trouble:
                is_piece = answer.status != 200 or request.expected_body().startswith(answer.body)
                if not is_piece:
                    return self.blame(self.wrong, f"a piece of another body: {answer.body[:120]!r}", request, answer)
                if request.may == FLIP and answer.status == 200 and end - begin > JUDGED_AGAIN:
                    return self.count(request, answer)
                return self.excuse_or(self.lost, "broke off", request, answer, cut)
            flaw = flaw_of(request, answer)
            return self.blame(self.wrong, flaw, request, answer) if flaw else self.count(request, answer)
        if said in UPSTREAM:
            if answer.trouble:
                return self.excuse_or(self.lost, "broke off", request, answer, cut)
            if not flaw_of(request, answer):
                kinds = ENDING | SLOW if answer.status == 504 else ENDING
                ill = excuses.Excuse(links(request), frozenset(kinds), begin, end, nonce)
                return self.excuse_or(self.wrong, "unexpected", request, answer, ill)
        if said in (NO_TOKEN, ENDED) and request.road in WITH_TOKEN and not answer.trouble and not flaw_of(request, answer):
            if said == NO_TOKEN:
                ill = excuses.Excuse(("issuer",), frozenset(ENDING | SLOW), begin - OUTAGE, end, nonce, shared=True)
                return self.excuse_or(self.wrong, "unexpected", request, answer, ill)
            if end - begin > TOKEN_LEFT:
                held_up = excuses.Excuse(links(request), frozenset(ENDING | SLOW), begin, end, nonce)
                return self.excuse_or(self.wrong, "unexpected", request, answer, held_up)
        self.blame(self.wrong, "unexpected", request, answer)

    def count(self, request, answer):
        self.right += 1
        self.answers[(request.road, answer.status, answer.reason)] += 1

    def excuse_or(self, blamed, what, request, answer, excuse):
        self.answers[(request.road, answer.status or "none", answer.trouble or answer.reason)] += 1
        self.excuses.append((blamed, told(what, request, answer), excuse))

    def blame(self, blamed, what, request, answer):
        self.answers[(request.road, answer.status, answer.reason)] += 1
        blamed.append(told(what, request, answer))

    def settle(self, events, seen):
        """Holds the excuses against what the fault proxies did, and what the application saw. Returns how many were good."""
        unexplained = excuses.unexplained([one for _, _, one in self.excuses], events, seen)
        for blamed, what, one in self.excuses:
            if one in unexplained:
                when = f"{one.begin - self.start:.2f} s to {one.end - self.start:.2f} s"
                blamed.append(f"{what}, though no fault explains it ({when})")
        return len(self.excuses) - len(unexplained)

    def compare(self, seen):
        """What the application saw, {nonce: the ports that it came from}: nothing that was denied, and nothing oftener than it may be
        repeated, which is once by each sidecar on the way."""
        for nonce, times in ((nonce, len(ports)) for nonce, ports in seen.items()):
            if nonce in self.denied:
                self.wrong.append(f"request {nonce} was denied, and reached the application")
            method, road = self.asked.get(nonce, (None, None))
            if times > 1:
                self.repeated[(road, times)] += 1
            if times > (2 ** SIDECARS.get(road, 0) if method == "GET" else 1):
                self.wrong.append(f"{method} {nonce} ({road}) reached the application {times} times")


# Between whom we ask and whoever says what the verdict is.
ROADS = {"inbound": (), "http2": (), "outbound": ("sidecars",), "multiplexed": ("sidecars_h2",), "caller": ("caller", "sidecars")}
# How many are between whom we ask and the application.
SIDECARS = {"inbound": 1, "http2": 1, "outbound": 2, "multiplexed": 2, "caller": 2}


def links(request):
    """On whose health the answer depends."""
    if request.elsewhere:
        return tuple(link for link in ROADS[request.road] if link == "caller")
    return ROADS[request.road] + ("application",) * request.reaches_application


def flaw_of(request, answer):
    """What is wrong with an answer of the right status, or None."""
    if answer.status == 200:
        if answer.body != request.expected_body():
            return f"another body: {answer.body[:120]!r} for {request.expected_body()[:120]!r}"
        if answer.headers.get("x-nonce") != request.nonce:
            return f"another answer's head: {answer.headers.get('x-nonce')}"
        return None
    try:
        problem = json.loads(answer.body)
    except ValueError:
        return f"no problem document: {answer.body[:120]!r}"
    if (problem.get("status"), problem.get("reason")) != (answer.status, answer.reason):
        return f"the head says {answer.status} {answer.reason}, the body {problem.get('status')} {problem.get('reason')}"
    if answer.status == 401 and "www-authenticate" not in answer.headers:
        return "401 without a challenge"
    return None


def told(what, request, answer):
    said = f"{answer.status or 'no status'} {answer.reason or ''}".strip()
    trouble = f", {answer.trouble}" if answer.trouble else ""
    return f"{what}: {request.road} {request.method} {request.path}: {said}{trouble}; allowed: {request.may}"
