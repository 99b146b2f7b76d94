"""A stream that is not HTTP, up or down for some seconds, in pieces of 256 KiB.

    streams.py serve ADDRESS PORT                 says `ready`, then serves until it is ended
    streams.py up|down HOST PORT SECONDS          prints how many bytes both ends agree on

A client says first which way and for how long. Who receives counts; up, the server's count comes back.
"""

import socket
import struct
import sys
import threading
import time

PIECE = bytes(range(256)) * 1024
ORDER = struct.Struct("!cd")
COUNT = struct.Struct("!Q")


def serve(address, port):
    with socket.create_server((address, port)) as listener:
        print("ready", flush=True)
        while True:
            threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()


def answer(stream):
    with stream:
        order = stream.recv(ORDER.size, socket.MSG_WAITALL)
        # Somebody looked whether we listen.
        if len(order) < ORDER.size:
            return
        way, seconds = ORDER.unpack(order)
        if way == b"u":
            stream.sendall(COUNT.pack(receive(stream)))
        else:
            sent = send(stream, seconds)
            stream.sendall(COUNT.pack(sent))


def ask(way, host, port, seconds):
    with socket.create_connection((host, port)) as stream:
        stream.sendall(ORDER.pack(way[0].encode(), seconds))
        if way == "up":
            sent = send(stream, seconds)
            stream.shutdown(socket.SHUT_WR)
            counted = COUNT.unpack(stream.recv(COUNT.size, socket.MSG_WAITALL))[0]
            if counted != sent:
                sys.exit(f"{sent} bytes were sent, {counted} arrived")
            return sent
        # The count comes last.
        received = receive(stream) - COUNT.size
        if received <= 0 or received % len(PIECE):
            sys.exit(f"{received} bytes arrived, no whole number of pieces: the stream was cut off")
        return received


def send(stream, seconds):
    sent, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        stream.sendall(PIECE)
        sent += len(PIECE)
    return sent


def receive(stream):
    received, buffer = 0, bytearray(len(PIECE))
    while count := stream.recv_into(buffer):
        received += count
    return received


if __name__ == "__main__":
    what, host, port, *seconds = sys.argv[1:]
    if what == "serve":
        serve(host, int(port))
    else:
        print(ask(what, host, int(port), float(seconds[0])))
