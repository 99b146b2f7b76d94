"""What changes meanwhile? Policy each second, certificates and keys every few seconds, each as whoever does it properly would."""

import asyncio
import json
import time
import urllib.request

import policies
import stage as stages
import tokens

POLICY = 1.0
CERTIFICATES = 5.0
TOKENS = 2.0
PARTNER_KEYS = 5.0
# A sidecar asks an issuer at most once in 30 s for keys that it does not know.
CORP_KEYS = 5.0
# Between the two files of a pair: whoever replaces them one after the other takes some time.
HALF = 0.2
# A key stays published for as long as its tokens live, and longer.
KEPT = 4
PATIENCE = 90.0


class Changes:
    """Everything that is replaced while requests run."""

    def __init__(self, stage, tokens, say):
        self.stage, self.tokens, self.say = stage, tokens, say
        self.version = 0
        self.counts = {"policies": 0, "certificates": 0, "partner's keys": 0, "corp's keys": 0}
        self.partners = [stage.partner]

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
        """Publishes a key, signs with it once it is known, and withdraws the oldest one."""
        folder = self.stage.made(f"partner-{self.counts[PARTNER] + 1}")
        self.partners.append(await asyncio.to_thread(stages.partner_issuer, folder))
        await self.publish_partners()
        self.tokens.add(await asyncio.to_thread(self.partner_token))
        if len(self.partners) > 3:
            oldest = self.partners.pop(0)
            gone = self.tokens.withdraw(oldest.kid)
            await self.publish_partners()
            self.tokens.refused(gone)
        self.counts[PARTNER] += 1

    async def publish_partners(self):
        sets = [json.loads(one.jwks_file.read_text())["keys"] for one in self.partners]
        before = await self.key_sets("partner")
        stages.put(self.stage.secrets / "partner.jwks", json.dumps({"keys": sum(sets, [])}))
        await self.until_known("partner", before)

    def partner_token(self):
        text = self.partners[-1].token(scope="orders:read", client_id="partner", sub="partner")
        return tokens.read(text, "partner")

    async def rotate_corp(self):
        """Publishes a key, and signs with it once the sidecar knows it. Somebody shows unknown keys all the time, so it asks."""
        before = await self.key_sets("corp")
        await self.manage("rotate?publish-only")
        await self.until_known("corp", before)
        await self.manage(f"promote?keep={KEPT}")
        self.counts["corp's keys"] += 1

    async def manage(self, what):
        request = urllib.request.Request(f"{self.stage.corp}/-/{what}", method="POST")
        await asyncio.to_thread(lambda: urllib.request.urlopen(request, timeout=10).read())

    async def until_known(self, issuer, before):
        begun = time.monotonic()
        while await self.key_sets(issuer) == before:
            if self.ending.is_set():
                raise Over
            if time.monotonic() - begun > PATIENCE:
                raise stages.Failure(f"the sidecar does not notice the new keys of {issuer} within {PATIENCE:.0f} s")
            await asyncio.sleep(0.2)

    async def key_sets(self, issuer):
        """How many key sets of an issuer the sidecar of orders has had."""
        metrics = await asyncio.to_thread(self.stage.metrics, "admin_orders")
        return metrics.get(f'countersign_jwks_refreshes_total{{issuer="{issuer}",result="success"}}', 0)


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
