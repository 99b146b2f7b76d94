"""Does every configuration refuse and accept what it should? Asked before anything is measured."""

import http.client
import time

from failure import Failure
from process import wait_until

PATH = "/orders/17"
DENIED_PATH = "/admin"


def check(contestant, stage):
    {"plain": check_plain, "inbound": check_inbound, "outbound": check_outbound}[contestant.road](contestant, stage)


def check_plain(contestant, stage):
    expect(contestant, "no token", 200, ask(contestant, PATH))


def check_inbound(contestant, stage):
    issuer, good = stage.issuer, stage.token
    now = int(time.time())
    head, claims, signature = good.split(".")
    other = issuer.token(scope="orders:read orders:write admin").split(".")[1]

    expect(contestant, "no token", 401, ask(contestant, PATH))
    expect(contestant, "not a token", 401, ask(contestant, PATH, "abc"))
    expect(contestant, "claims that were not signed", 401, ask(contestant, PATH, f"{head}.{other}.{signature}"))
    expect(contestant, "an expired token", 401, ask(contestant, PATH, issuer.token(iat=now - 7200, exp=now - 3600)))
    expect(contestant, "another issuer", 401, ask(contestant, PATH, issuer.token(iss="http://127.0.0.1:1")))
    # Envoy answers 403 where RFC 6750 has 401.
    expect(contestant, "another audience", (401, 403), ask(contestant, PATH, issuer.token(aud="https://stock.shop")))
    if contestant.verifies_scopes:
        expect(contestant, "the wrong scope", 403, ask(contestant, PATH, issuer.token(scope="carts:read")))
        expect(contestant, "a path of no rule", 403, ask(contestant, DENIED_PATH, good))
        expect(contestant, "a method of no rule", 403, ask(contestant, PATH, good, method="DELETE"))
    # Twice: verified, then from the cache.
    for _ in range(2):
        status, body = ask(contestant, PATH, good)
        expect(contestant, "a good token", 200, (status, body))
        if len(body) != 128:
            raise Failure(f"{contestant.name}, {contestant.road}: {len(body)} bytes came back instead of 128")


def check_outbound(contestant, stage):
    # The first token is fetched from the token server; until then each answers in its own way.
    host = f"localhost:{stage.ports['backend_port']}"
    expected = f"Bearer {stage.outbound_token}".encode()
    last = (0, b"")

    def arrives():
        nonlocal last
        last = ask(contestant, "/seen", host=host)
        return last == (200, expected)

    try:
        wait_until("the token should reach the application", 10, arrives)
    except Failure as failure:
        raise Failure(f"{contestant.name}, outbound: {failure}; last answer: {last[0]}, {len(last[1])} bytes") from failure
    expect(contestant, "a request", 200, ask(contestant, PATH, host=host))


def ask(contestant, path, token=None, host=None, method="GET"):
    connection = http.client.HTTPConnection("127.0.0.1", contestant.port, timeout=5)
    headers = {"Host": host or "orders.shop"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise Failure(f"{contestant.name}, {contestant.road}: {method} {path}: {error}") from error
    finally:
        connection.close()


def expect(contestant, what, wanted, got):
    status, body = got
    if status not in (wanted if isinstance(wanted, tuple) else (wanted,)):
        said = body[:200].decode(errors="replace")
        raise Failure(f"{contestant.name}, {contestant.road}: {what}: {wanted} expected, {status} came: {said}")
