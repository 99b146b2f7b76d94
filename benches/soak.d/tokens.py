"""Which tokens do callers show? Good ones of two issuers whose keys rotate, and every kind of bad one, with what is answered to it."""

import base64
import dataclasses
import json
import secrets
import threading
import time
import urllib.parse
import urllib.request

LEEWAY = 2
# A token this near to its end is not shown as a good one, and one this far behind it is an expired one, in seconds.
MARGIN = 10
CLIENTS = ("storefront", "reports")


@dataclasses.dataclass(frozen=True)
class Token:
    text: str
    client: str
    expires: float
    key: str  # the id of its key


class Tokens:
    """What was issued so far. Filled by the changes, read by the traffic."""

    def __init__(self, chance):
        self.chance = chance
        self.lock = threading.Lock()
        self.issued = []
        self.withdrawn = []

    def add(self, token):
        with self.lock:
            now = time.time()
            # So that there are some that have expired, but not more and more.
            self.issued = [one for one in self.issued if one.expires > now - 120] + [token]

    def withdraw(self, key):
        """Tokens of this key are good no more: from here on they are shown as neither."""
        with self.lock:
            gone = [one for one in self.issued if one.key == key]
            self.issued = [one for one in self.issued if one.key != key]
        return gone

    def refused(self, tokens):
        """The sidecar must know by now that the key of these is gone."""
        with self.lock:
            self.withdrawn = (self.withdrawn + tokens)[-10:]

    def good(self):
        now = time.time()
        with self.lock:
            token = self.chance.choice([one for one in self.issued if one.expires > now + MARGIN])
        return token.text, token.client

    def bad(self):
        """A token, or None, that lets nobody in, and what may be answered to it."""
        now = time.time()
        with self.lock:
            expired = [one for one in self.issued if one.expires + LEEWAY + MARGIN < now]
            withdrawn = [one for one in self.withdrawn if one.expires > now + MARGIN]
        kinds = ["missing", "malformed", "forged", "unknown_key"] + ["expired"] * bool(expired) + ["withdrawn"] * bool(withdrawn)
        kind = self.chance.choice(kinds)
        if kind == "missing":
            return None, ((401, "missing_token"),)
        if kind == "malformed":
            return "not-a-token", ((401, "malformed_token"),)
        if kind == "expired":
            # When its key has gone too, that is as true, and its issuer may be asked for it.
            return self.chance.choice(expired).text, ((401, "expired"), (401, "unknown_key"), (503, "keys_unavailable"))
        if kind == "withdrawn":
            return self.chance.choice(withdrawn).text, ((401, "unknown_key"),)
        head, claims, signature = self.good()[0].split(".")
        if kind == "forged":
            turned = signature[:10] + ("A" if signature[10] != "A" else "B") + signature[11:]
            return f"{head}.{claims}.{turned}", ((401, "bad_signature"),)
        # Its issuer is asked, which may not answer just now.
        head = encode({"typ": "at+jwt", "alg": "ES256", "kid": f"nobody-{self.chance.random()}"})
        return f"{head}.{self.corp_claims()}.{signature}", ((401, "unknown_key"), (503, "keys_unavailable"))

    def corp_claims(self):
        with self.lock:
            return next(one for one in reversed(self.issued) if one.client in CLIENTS).text.split(".")[1]


def fetch(issuer, client, secret):
    """A token of the authorization server, for a client of its own."""
    form = {"grant_type": "client_credentials", "scope": "orders:read", "resource": "https://orders.shop"}
    credentials = base64.b64encode(f"{client}:{secret}".encode()).decode()
    request = urllib.request.Request(f"{issuer}/token", urllib.parse.urlencode(form).encode())
    request.add_header("Authorization", f"Basic {credentials}")
    with urllib.request.urlopen(request, timeout=10) as answer:
        text = json.load(answer)["access_token"]
    return read(text, client)


def read(text, client):
    head, claims = (read_part(part) for part in text.split(".")[:2])
    return Token(text, client, claims["exp"], head["kid"])


def read_part(part):
    return json.loads(base64.urlsafe_b64decode(part + "=="))


def claiming(token, kid):
    """What says that it is signed with this key, and is not; another text each time, so that no cache knows it."""
    head, claims, signature = token.text.split(".")
    return f"{encode({**read_part(head), 'kid': kid})}.{encode({**read_part(claims), 'jti': secrets.token_hex(8)})}.{signature}"


def encode(content):
    return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()
