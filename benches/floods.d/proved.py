"""Does every proxy answer what it should, and nothing else? Asked before anything is measured."""

import http.client
import socket
import ssl

import frames
from failure import Failure
from proxies import BIG

PATH = "/orders/17"


def check(proxy):
    unverified = ssl.create_default_context()
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    plain = lambda: http.client.HTTPConnection("127.0.0.1", proxy.http1, timeout=5)
    over_tls = lambda: http.client.HTTPSConnection("127.0.0.1", proxy.tls, timeout=5, context=unverified)
    for what, connect, method, path, wanted in [
        ("HTTP/1.1", plain, "GET", PATH, (200, 128)),
        ("HTTP/1.1, a body that the application waits for", plain, "POST", "/imports/1", (200, 128)),
        ("HTTP/1.1, the large answer", plain, "GET", "/exports/big", (200, BIG)),
        ("HTTP/1.1, a path of no rule", plain, "GET", "/admin", (403, None)),
        ("TLS", over_tls, "GET", PATH, (200, 128)),
    ]:
        status, length = ask(proxy, what, connect(), method, path)
        if (status, length if wanted[1] else None) != wanted:
            raise Failure(f"{proxy.name}: {what}: {wanted} expected, {status} with {length} bytes came")
    if not answers_http2(proxy):
        raise Failure(f"{proxy.name}: HTTP/2: 200 expected, it did not come")


def ask(proxy, what, connection, method, path):
    try:
        connection.request(method, path, body=b"ab" if method == "POST" else None, headers={"Host": "orders.shop"})
        answer = connection.getresponse()
        return answer.status, len(answer.read())
    except (OSError, http.client.HTTPException) as error:
        raise Failure(f"{proxy.name}: {what}: {error}") from error
    finally:
        connection.close()


def answers_http2(proxy):
    reader = frames.Reader()
    with socket.create_connection(("127.0.0.1", proxy.http2), timeout=5) as one:
        one.sendall(frames.begin() + frames.headers(1, frames.request(PATH.encode())))
        while got := one.recv(65536):
            for kind, _, stream, payload in reader.frames(got):
                if kind == frames.HEADERS and stream == 1:
                    return frames.is_ok(payload)
    return False
