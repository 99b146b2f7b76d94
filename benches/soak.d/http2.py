"""What do callers over HTTP/2 hear? curl asks a handful of things at once, over one connection, and its answers are judged like all."""

import asyncio
import json
import re
import tempfile
import time

import client

TOGETHER = 8


async def ask(stage, cases, judge, ending):
    """A connection of so many streams each second or so."""
    while not ending.is_set():
        await one_connection(stage, cases, judge)
        await asyncio.sleep(0.5)


async def one_connection(stage, cases, judge):
    requests = [cases.inbound() for _ in range(TOGETHER)]
    with tempfile.TemporaryDirectory(dir=stage.folder, prefix="curl-") as folder:
        lines = []
        for number, request in enumerate(requests):
            request.road = "http2"
            lines += (["next"] if lines else []) + options(stage, request, f"{folder}/{number}")
        begin = time.monotonic()
        curl = await asyncio.create_subprocess_exec(
            "curl", "--parallel", "--no-progress-meter", "--config", "-",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )
        out, _ = await curl.communicate("\n".join(lines).encode())
        end = time.monotonic()
        said = {one["urlnum"]: one for one in map(json.loads, out.decode().splitlines())}
        for number, request in enumerate(requests):
            judge.hear(request, answer(said.get(number, {}), f"{folder}/{number}"), begin, end)


def options(stage, request, file):
    """curl reads them as a file of options, one a line."""
    url = f"https://orders.example:{stage.ports['inbound']}{request.path}"
    headers = {"X-Nonce": request.nonce, "X-Client-Id": "somebody-else", "Content-Type": "text/plain"}
    if request.token:
        headers["Authorization"] = f"Bearer {request.token}"
    lines = [f'url = "{url}"', "http2", f'cacert = "{stage.ca}"', f"max-time = {client.PATIENCE:.0f}", "globoff"]
    lines += [f'resolve = "orders.example:{stage.ports["inbound"]}:127.0.0.1"', f'output = "{file}.body"', f'dump-header = "{file}.head"']
    lines += [f'header = "{name}: {value}"' for name, value in headers.items()]
    if request.method == "POST":
        lines.append(f'data-raw = "{request.body.decode()}"')
    return [*lines, 'write-out = "%{json}\\n"']


def answer(said, file):
    """What curl says of a transfer, as an answer."""
    # Which stream it was is of no use.
    trouble = None if said.get("exitcode") == 0 else re.sub(r"stream \d+", "stream", said.get("errormsg") or "curl")
    found = client.Answer(status=said.get("http_code", 0), trouble=trouble)
    try:
        with open(f"{file}.head") as head, open(f"{file}.body", "rb") as body:
            lines = [line.partition(":") for line in head.read().splitlines() if ":" in line]
            found.headers = {name.lower(): value.strip() for name, _, value in lines}
            found.body = body.read()
    except FileNotFoundError:
        pass
    return found
