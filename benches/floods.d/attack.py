"""Who attacks? One flood at a stated rate, in one process, with plain sockets and bytes that were built ahead.

    attack.py FLOOD HTTP1_PORT HTTP2_PORT TLS_PORT COUNT SECONDS

Prints one line of JSON: what was sent, from when to when, and what became of the connections. It ends by itself within a few
seconds of SECONDS, and nothing that it opened outlives it.
"""

import json
import sys

import crowds
import streams


def main():
    flood, *rest = sys.argv[1:]
    *ports, count = map(int, rest[:-1])
    ports = dict(zip(("http1", "http2", "tls"), ports))
    run = streams.run if flood in streams.FLOODS else crowds.run
    print(json.dumps(run(flood, ports, count, float(rest[-1]))))


if __name__ == "__main__":
    main()
