"""What is asked, and what may come back? Each case has one verdict in all versions of policy, or says where it has two."""

import dataclasses
import hashlib

ALLOWED = (200, None)


@dataclasses.dataclass
class Request:
    """One request, and all that may be answered to it while nothing is ill."""

    road: str
    method: str
    path: str
    nonce: str
    body: bytes
    token: str | None
    client: str
    may: tuple
    # Another host than that of the application, if not "".
    elsewhere: str = ""

    def expected_body(self):
        """What the application says to it."""
        count = int(self.path.split("/")[-2]) if self.path.split("/")[-2].isdigit() else 0
        filler = (self.nonce * (count // len(self.nonce) + 1))[:count]
        return f"{self.method} {self.path}\n{self.nonce}\n{self.client}\n".encode() + self.body + filler.encode()

    @property
    def reaches_application(self):
        return ALLOWED in self.may


# Paths that a good token is enough for, and those that it is not, with the only answer.
DENIED = {
    "/never": (403, "denied_by_rule"),
    "/scope": (403, "insufficient_scope"),
    "/nothing": (403, "no_rule"),
}
FLIP = (ALLOWED, (403, "no_rule"))


class Cases:
    """Draws requests."""

    def __init__(self, chance, tokens):
        self.chance, self.tokens = chance, tokens
        self.number = 0

    def inbound(self):
        """Straight to the sidecar of the application, with a token of the caller's own choice, or none."""
        kind = self.chance.choices(("good", "flip", "denied", "public", "bad", "peer"), (50, 10, 15, 8, 12, 5))[0]
        if kind == "public":
            return self.request("inbound", "/public", None, "-", (ALLOWED,))
        if kind == "bad":
            token, may = self.tokens.bad()
            return self.request("inbound", "/always", token, "-", may)
        token, client = self.tokens.good()
        if kind == "peer":
            return self.request("inbound", "/peer", token, client, ((403, "peer_required"), (403, "no_rule")))
        return self.judged("inbound", kind, token, client)

    def outbound(self, road="outbound"):
        """Through the caller's own sidecar, which adds token and certificate."""
        kind = self.chance.choices(("good", "flip", "denied", "public", "peer", "elsewhere"), (50, 12, 18, 6, 10, 4))[0]
        if kind == "elsewhere":
            return self.request(road, "/always", None, "-", ((403, "egress_denied"),), host="elsewhere.example")
        if kind == "public":
            return self.request(road, "/public", None, "-", (ALLOWED,))
        if kind == "peer":
            # The rule knows its caller by certificate; the token that comes along says who it is all the same.
            return self.request(road, "/peer", None, "checkout", (ALLOWED,))
        return self.judged(road, kind, None, "checkout")

    def judged(self, road, kind, token, client):
        if kind == "denied":
            path = self.chance.choice(list(DENIED))
            return self.request(road, path, token, client, (DENIED[path],))
        return self.request(road, "/flip" if kind == "flip" else "/always", token, client, FLIP if kind == "flip" else (ALLOWED,))

    def request(self, road, prefix, token, client, may, host=None):
        self.number += 1
        nonce = hashlib.sha256(f"{self.number}/{self.chance.random()}".encode()).hexdigest()[:24]
        large = self.chance.random() < 0.03
        count = self.chance.choice((0, 1, 100, 1000)) if not large else self.chance.randrange(10_000, 200_000)
        path = f"{prefix}{'/chunked' if self.chance.random() < 0.3 else ''}/{count}/{nonce}"
        method, body = "GET", b""
        if self.chance.random() < 0.3:
            method, body = "POST", f"{nonce} ".encode() * self.chance.choice((1, 20, 2000 if large else 40))
        return Request(road, method, path, nonce, body, token, client, may, host or "")
