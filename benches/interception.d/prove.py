"""Does every sidecar let a token go where it should and nowhere else, and no caller in without one? Asked before anything
is measured.
"""

from failure import Failure
from pods import APPLICATION
from process import wait_until

PATH = "/orders/17"


def check(contestant, stage):
    {
        "redirect": check_redirect,
        "forward": check_forward,
        "originate": check_originate,
        "inbound": check_inbound,
        "opened": check_redirect,
        "up": check_stream,
        "down": check_stream,
    }[contestant.road](contestant, stage)


def check_redirect(contestant, stage):
    arrives(contestant, stage, "http://stock.shop:8080/seen")
    # The address is that of a rule, the name is not.
    keeps(contestant, stage, "http://stock.shop:8080/seen", "-H", "Host: evil.example:8080")


def check_forward(contestant, stage):
    proxy = ["-x", f"http://127.0.0.1:{contestant.sidecar.forward_port}"]
    arrives(contestant, stage, "http://stock.shop:8080/seen", *proxy)
    keeps(contestant, stage, "http://issuer.shop:8080/seen", *proxy)


def check_originate(contestant, stage):
    # The application speaks plain text; the port speaks TLS alone.
    arrives(contestant, stage, "http://stock.shop:8443/seen")
    status, _ = ask(stage.net.world, "http://stock.shop:8443/seen")
    if status != 400:
        raise Failure(f"the destination answered {status} to plain text on its TLS port, 400 was expected")


def check_inbound(contestant, stage):
    issuer, url = stage.issuer, f"http://{contestant.sidecar.pod.address}:8080"
    bearer = lambda token: ("-H", f"Authorization: Bearer {token}")
    other = issuer.token(aud="https://stock.shop")
    for what, wanted, path, more in [
        ("no token", (401,), PATH, ()),
        ("not a token", (401,), PATH, bearer("abc")),
        ("another audience", (401, 403), PATH, bearer(other)),
        ("the wrong scope", (403,), PATH, bearer(issuer.token(scope="carts:read"))),
        ("a path of no rule", (403,), "/admin", bearer(stage.token)),
        ("a good token", (200,), PATH, bearer(stage.token)),
        ("a good token again", (200,), PATH, bearer(stage.token)),
    ]:
        status, body = ask(stage.net.world, url + path, *more)
        if status not in wanted:
            raise Failure(f"{contestant.name}, inbound: {what}: {wanted} expected, {status} came: {body[:200]}")


def check_stream(contestant, stage):
    """That it passes whole is checked with every measurement; here that it goes through the sidecar."""
    pod, rules = contestant.sidecar.pod, "list table inet countersign"
    if "redirect to" not in pod.run(0, "nft", *rules.split()).stdout:
        raise Failure(f"{contestant.name}: its pod has no redirect")


def arrives(contestant, stage, url, *more):
    # The first token is fetched from the issuer; until then each answers in its own way.
    expected, last = (200, f"Bearer {stage.outbound_token}"), (0, "")

    def seen():
        nonlocal last
        last = ask(contestant.sidecar.pod, url, *more)
        return last == expected

    try:
        wait_until("the token should reach the destination", 10, seen)
    except Failure as failure:
        said = contestant.process.log.read_text(errors="replace")[-1000:]
        raise Failure(f"{contestant.name}, {contestant.road}: {failure}; last answer {last[0]}: {last[1][:200]}; log: {said}") from failure


def keeps(contestant, stage, url, *more):
    status, body = ask(contestant.sidecar.pod, url, *more)
    if stage.outbound_token in body:
        raise Failure(f"{contestant.name}, {contestant.road}: the token went to {url} {more}")


def ask(pod, url, *more):
    """As the application in the pod; (0, why) if there is no answer."""
    done = pod.run(APPLICATION, "curl", "-q", "-s", "-S", "-m", "5", "-w", "\n%{http_code}", *more, url)
    body, _, status = done.stdout.rpartition("\n")
    return int(status or 0), body or done.stderr
