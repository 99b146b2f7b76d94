"""What do callers over HTTP/2 hear? A handful of things is asked at once, over one connection, and the answers are judged like all."""

import asyncio
import base64
import json
import pathlib
import time

import client
from failure import Failure

HERE = pathlib.Path(__file__).resolve().parent
TOGETHER = 8
# Of a line of answers, in bytes.
LONGEST = 16 * 1024 * 1024


async def ask(stage, cases, judge, ending):
    """A connection of so many streams each half second or so."""
    given = {"port": stage.ports["inbound"], "host": "orders.example", "ca": str(stage.ca), "patience": client.PATIENCE}
    node = await asyncio.create_subprocess_exec(
        "node", HERE / "http2-client.mjs", json.dumps(given),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=LONGEST,
    )
    try:
        while not ending.is_set():
            await one_connection(node, cases, judge)
            await asyncio.sleep(0.5)
    finally:
        if node.returncode is None:
            node.kill()
        await node.wait()


async def one_connection(node, cases, judge):
    requests = [cases.inbound() for _ in range(TOGETHER)]
    begin = time.monotonic()
    node.stdin.write(json.dumps([written(request) for request in requests]).encode() + b"\n")
    line = await node.stdout.readline()
    end = time.monotonic()
    if not line:
        raise Failure("the caller over HTTP/2 has ended")
    for request, said in zip(requests, json.loads(line), strict=True):
        request.road = "http2"
        judge.hear(request, answer(said), begin, end)


def written(request):
    headers = {"x-nonce": request.nonce, "x-client-id": "somebody-else", "content-type": "text/plain"}
    if request.token:
        headers["authorization"] = f"Bearer {request.token}"
    return {"method": request.method, "path": request.path, "headers": headers, "body": request.body.decode()}


def answer(said):
    headers = {name: value for name, value in said["headers"].items() if isinstance(value, str)}
    return client.Answer(said["status"], headers, base64.b64decode(said["body"]), said["trouble"])
