"""What changes meanwhile? Policy each second, certificates and keys every few seconds, each as whoever does it properly would."""

import asyncio
import json
import ssl
import time
import urllib.request

import client
import policies
import stage as stages
import tokens
from failure import Failure

POLICY = 1.0
CERTIFICATES = 5.0
TOKENS = 2.0
PARTNER_KEYS = 5.0
# Of the partner's keys, the newest so many are used, and so many are published.
SIGNING, PUBLISHED = 2, 4
# A sidecar asks an issuer at most once in 30 s for keys that it does not know.
CORP_KEYS = 5.0
# Between the two files of a pair: whoever replaces them one after the other takes some time.
HALF = 0.2
# A key stays published for as long as its tokens live, and longer.
KEPT = 4
PATIENCE = 90.0


class Changes:
    """Everything that is replaced while requests run."""

    def __init__(self, stage, tokens):
        self.stage, self.tokens = stage, tokens
        self.version = 0
        self.counts = {"policies": 0, "certificates": 0, "partner's keys": 0, "corp's keys": 0}
        self.partners, self.unused = [stage.partner], {}
        self.tls = ssl.create_default_context(cafile=stage.ca)

    def first_tokens(self):
        for client in tokens.CLIENTS:
            self.tokens.add(tokens.fetch(self.stage.corp, client, self.stage.secret))
        self.tokens.add(self.partner_token())

    async def run(self, ending):
        """All of it, each at its own pace, until the end. What fails ends the soak."""
        self.ending = ending
        work = [(POLICY, self.reload), (CERTIFICATES, self.replace_certificates), (TOKENS, self.issue)]
        work += [(PARTNER_KEYS, self.rotate_partner), (CORP_KEYS, self.rotate_corp)]
        tasks = [asyncio.ensure_future(every(pace, one, ending)) for pace, one in work]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def reload(self):
        self.version += 1
        self.stage.publish(policies.version(self.version, self.stage.ports, self.stage.corp))
        self.counts["policies"] += 1

    async def replace_certificates(self):
        """Key, then certificate, so that for a moment they do not fit."""
        number = (self.counts["certificates"] + 1) % stages.CERTIFICATES
        for folder, kind in ((self.stage.secrets, "server"), (self.stage.policies, "client")):
            key, certificate = self.stage.pairs[kind][number]
            stages.put(folder / f"{kind}.key", key.read_text())
            await asyncio.sleep(HALF)
            stages.put(folder / f"{kind}.crt", certificate.read_text())
        self.counts["certificates"] += 1

    async def issue(self):
        client = self.tokens.chance.choice(tokens.CLIENTS)
        self.tokens.add(await asyncio.to_thread(tokens.fetch, self.stage.corp, client, self.stage.secret))

    async def rotate_partner(self):
        """Publishes a key, and signs with it once it is known. Older ones are used no more, and in the end withdrawn."""
        folder = self.stage.made(f"partner-{self.counts[PARTNER] + 1}")
        self.partners.append(await asyncio.to_thread(stages.partner_issuer, folder))
        self.publish_partners()
        await self.until(self.partner_token, self.partners[-1].kid, "bad_signature")
        self.tokens.add(await asyncio.to_thread(self.partner_token))
        if len(self.partners) > SIGNING:
            # Requests that are on their way with them have time to arrive.
            self.unused[self.partners[-1 - SIGNING].kid] = self.tokens.withdraw(self.partners[-1 - SIGNING].kid)
        if len(self.partners) > PUBLISHED:
            oldest = self.partners.pop(0)
            self.publish_partners()
            await self.until(self.partner_token, oldest.kid, "unknown_key")
            self.tokens.refused(self.unused.pop(oldest.kid))
        self.counts[PARTNER] += 1

    def publish_partners(self):
        sets = [json.loads(one.jwks_file.read_text())["keys"] for one in self.partners]
        stages.put(self.stage.secrets / "partner.jwks", json.dumps({"keys": sum(sets, [])}))

    def partner_token(self):
        text = self.partners[-1].token(scope="orders:read", client_id="partner", sub="partner")
        return tokens.read(text, "partner")

    async def rotate_corp(self):
        """Publishes a key, and signs with it once the sidecar knows it."""
        kid = (await self.manage("rotate?publish-only"))["kid"]
        await self.until(lambda: tokens.fetch(self.stage.corp, tokens.CLIENTS[0], self.stage.secret), kid, "bad_signature")
        await self.manage(f"promote?keep={KEPT}")
        self.counts["corp's keys"] += 1

    async def manage(self, what):
        request = urllib.request.Request(f"{self.stage.corp}/-/{what}", method="POST")
        return json.loads(await asyncio.to_thread(lambda: urllib.request.urlopen(request, timeout=10).read()))

    async def until(self, made, kid, reason):
        """Shows what claims to be signed with this key until that is refused for this reason, which tells whether it is known."""
        token, begun = await asyncio.to_thread(made), time.monotonic()
        connection = client.Connection(self.stage.ports["inbound"], self.tls, "orders.example")
        while True:
            headers = {"Host": "orders.example", "Authorization": f"Bearer {tokens.claiming(token, kid)}"}
            answer = await connection.ask("GET", "/always/0/probe", headers)
            if answer.reason == reason:
                return connection.close()
            if self.ending.is_set():
                raise Over
            if time.monotonic() - begun > PATIENCE:
                raise Failure(f"key {kid} is refused with {answer.reason} for {PATIENCE:.0f} s, where {reason} is due")
            await asyncio.sleep(0.5)


PARTNER = "partner's keys"


class Over(Exception):
    """The end came in the middle of a change."""


async def every(pace, work, ending):
    while not ending.is_set():
        try:
            await work()
        except Over:
            return
        try:
            await asyncio.wait_for(ending.wait(), pace)
        except TimeoutError:
            pass
