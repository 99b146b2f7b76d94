"""A gRPC client (PyPI grpcio) for the interop tests: every kind of call, one line of JSON per case.

    python grpc_client.py TARGET [--authority NAME] [--token TOKEN] [--case NAME]

Messages are built by hand (one bytes field), so that no code generator is needed. A case's line is
{"case": ..., "ok": true} or {"case": ..., "ok": false, "error": ...}; the exit code is 0 if the script ran.
"""

import argparse
import json
import threading
import time
from concurrent import futures

import grpc

SERVICE = "/countersign.test.Echo/"
LARGE = bytes(range(256)) * 4096  # 1 MiB: many frames, more than one flow-control window


def encode(payload: bytes) -> bytes:
    length, varint = len(payload), bytearray()
    while length > 0x7F:
        varint.append(length & 0x7F | 0x80)
        length >>= 7
    varint.append(length)
    return b"\x0a" + bytes(varint) + payload


def decode(message: bytes) -> bytes:
    if not message:
        return b""
    assert message[0] == 0x0A, message[:8]
    length, shift, at = 0, 0, 1
    while True:
        byte = message[at]
        length |= (byte & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if byte < 0x80:
            break
    assert len(message) == at + length
    return message[at:]


class Client:
    def __init__(self, channel, metadata):
        self.channel, self.metadata = channel, metadata

    def call(self, kind, method):
        multi = getattr(self.channel, kind)(SERVICE + method, request_serializer=encode, response_deserializer=decode)
        return lambda request, **more: multi(request, metadata=self.metadata, timeout=20, **more)

    def unary(self):
        callable_ = self.channel.unary_unary(SERVICE + "Unary", request_serializer=encode, response_deserializer=decode)
        reply, call = callable_.with_call(b"hello", metadata=self.metadata, timeout=20)
        assert reply == b"hello", reply
        trailers = dict(call.trailing_metadata())
        assert trailers["x-trailer"] == "from the server", trailers
        assert trailers["x-trailer-bin"] == bytes([0, 1, 254, 255]), trailers

    def unary_empty(self):
        assert self.call("unary_unary", "Unary")(b"") == b""

    def unary_large(self):
        assert self.call("unary_unary", "Unary")(LARGE) == LARGE

    def server_stream(self):
        replies = list(self.call("unary_stream", "ServerStream")(b"500"))
        assert replies == [str(i).encode() for i in range(500)], len(replies)

    def server_stream_empty(self):
        assert list(self.call("unary_stream", "ServerStream")(b"0")) == []

    def client_stream(self):
        reply = self.call("stream_unary", "ClientStream")(iter([b"x" * 1000] * 200))
        assert reply == b"200000", reply

    def bidi(self):
        # Ping-pong: the next message leaves only after the last came back, so nothing on the way may wait for the end.
        turn, sent = threading.Semaphore(1), []

        def requests():
            for i in range(50):
                assert turn.acquire(timeout=10), "no reply to the message before"
                sent.append(str(i).encode())
                yield sent[-1]

        received = []
        for reply in self.call("stream_stream", "Bidi")(requests()):
            received.append(reply)
            turn.release()
        assert received == sent and len(sent) == 50, (len(received), len(sent))

    def error_with_trailers(self):
        error = self.failure("Fail")
        assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, error
        assert error.details() == "as asked: 100% «no»", error.details()
        assert dict(error.trailing_metadata())["x-trailer"] == "from the server"

    def trailers_only(self):
        # No header block of its own: all that there is comes with the status.
        error = self.failure("Fail")
        assert not [key for key, _ in error.initial_metadata() or () if key.startswith("x-")], error.initial_metadata()
        assert dict(error.trailing_metadata())["x-trailer-bin"] == bytes([0, 1, 254, 255])

    def error_after_messages(self):
        received, call = [], self.call("unary_stream", "FailLate")(b"")
        try:
            for reply in call:
                received.append(reply)
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.DATA_LOSS and error.details() == "too late", error
            assert dict(error.trailing_metadata())["x-trailer"] == "from the server"
        assert received == [str(i).encode() for i in range(10)], received

    def gzip(self):
        for message in (b"", b"a" * 100_000, LARGE):
            assert self.call("unary_unary", "Unary")(message, compression=grpc.Compression.Gzip) == message

    def large_metadata(self):
        sent = [*self.metadata, ("x-large", "m" * 6000)]
        callable_ = self.channel.unary_unary(SERVICE + "Metadata", request_serializer=encode, response_deserializer=decode)
        assert json.loads(callable_(b"", metadata=sent, timeout=20))["x-large"] == "m" * 6000

    def slow_reader(self):
        # 32 MiB, of which nothing is read for a while.
        size, count = 0, 0
        for reply in self.call("unary_stream", "Large")(b"512"):
            if count in (0, 100):
                time.sleep(1)
            size, count = size + len(reply), count + 1
        assert (size, count) == (32 * 1024 * 1024, 512), (size, count)

    def keepalive(self):
        # An idle stream on a connection that is pinged each second (main sets it) lives on.
        turn = threading.Semaphore(1)

        def requests():
            for i in range(2):
                assert turn.acquire(timeout=10)
                yield str(i).encode()

        replies = self.call("stream_stream", "Bidi")(requests())
        assert next(replies) == b"0"
        time.sleep(4)
        turn.release()
        assert list(replies) == [b"1"]

    def cancel_reaches_the_server(self):
        name, call = self.hold(timeout=20)
        self.report(name, lambda known: known)
        call.cancel()
        known = self.report(name, lambda known: known and known["cancelled"])
        assert 15_000 < known["left"] <= 21_000, known

    def deadline_reaches_the_server(self):
        name, call = self.hold(timeout=1)
        assert call.code() == grpc.StatusCode.DEADLINE_EXCEEDED, call
        known = self.report(name, lambda known: known and known["cancelled"])
        assert 0 < known["left"] <= 2000, known

    def hold(self, timeout):
        name = f"{time.time_ns()}".encode()
        hold = self.channel.unary_unary(SERVICE + "Hold", request_serializer=encode, response_deserializer=decode)
        return name, hold.future(name, metadata=self.metadata, timeout=timeout)

    def report(self, name, is_known):
        began = time.monotonic()
        while not is_known(known := json.loads(self.call("unary_unary", "Report")(name))):
            assert time.monotonic() - began < 5, f"the server knows only {known}"
            time.sleep(0.05)
        return known

    def unimplemented(self):
        assert self.failure("Nothing").code() == grpc.StatusCode.UNIMPLEMENTED

    def cancel(self):
        stream = self.channel.stream_stream(SERVICE + "Bidi", request_serializer=encode, response_deserializer=decode)
        hold = threading.Event()

        def requests():
            yield b"one"
            hold.wait(10)

        call = stream(requests(), metadata=self.metadata, timeout=20)
        assert next(call) == b"one"
        call.cancel()
        hold.set()
        try:
            next(call)
        except (grpc.RpcError, StopIteration, grpc.FutureCancelledError):
            pass
        self.unary()  # the connection is still good

    def deadline(self):
        def requests():
            threading.Event().wait(2)
            yield b"late"

        stream = self.channel.stream_unary(SERVICE + "ClientStream", request_serializer=encode, response_deserializer=decode)
        try:
            stream(requests(), metadata=self.metadata, timeout=0.3)
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
        else:
            raise AssertionError("the deadline did not pass")

    def parallel(self):
        with futures.ThreadPoolExecutor(32) as pool:
            for call in [pool.submit(self.unary) for _ in range(32)]:
                call.result()

    def metadata_echo(self):
        callable_ = self.channel.unary_unary(SERVICE + "Metadata", request_serializer=encode, response_deserializer=decode)
        sent = [*self.metadata, ("x-plain", "value"), ("x-bytes-bin", bytes([1, 2, 255]))]
        reply, call = callable_.with_call(b"", metadata=sent, timeout=20)
        seen = json.loads(reply)
        assert seen["x-plain"] == "value" and seen["x-bytes-bin"] == "0102ff", seen
        assert dict(call.initial_metadata())["x-initial"] == "early"
        return seen

    def failure(self, method):
        try:
            self.call("unary_unary", method)(b"")
        except grpc.RpcError as error:
            return error
        raise AssertionError("the call succeeded")

    def refused(self):
        """What a refusal looks like to a client; not among the cases that run by default."""
        error = self.failure("Unary")
        trailers = {**dict(error.initial_metadata() or ()), **dict(error.trailing_metadata() or ())}
        return {"code": error.code().value[0], "details": error.details(), "trailers": {k: str(v) for k, v in trailers.items()}}

    def held(self):
        """A call in both directions that nobody ends: how it is ended; not among the cases that run by default."""
        done, began = threading.Event(), time.monotonic()

        def requests():
            while not done.is_set():
                yield b"ping"
                done.wait(0.2)

        call = self.channel.stream_stream(SERVICE + "Bidi", request_serializer=encode, response_deserializer=decode)(
            requests(), metadata=self.metadata, timeout=30
        )
        received = 0
        try:
            for _ in call:
                received += 1
        except grpc.RpcError:
            pass
        done.set()
        return {
            "code": call.code().value[0], "details": call.details(), "received": received,
            "seconds": time.monotonic() - began, "trailers": {k: str(v) for k, v in call.trailing_metadata()},
        }

    def held_many(self):
        """A hundred of them at once; not among the cases that run by default."""
        with futures.ThreadPoolExecutor(100) as pool:
            return [call.result() for call in [pool.submit(self.held) for _ in range(100)]]


CASES = [
    "unary", "unary_empty", "unary_large", "server_stream", "server_stream_empty", "client_stream", "bidi",
    "error_with_trailers", "unimplemented", "cancel", "deadline", "parallel", "metadata_echo",
    "trailers_only", "error_after_messages", "gzip", "large_metadata", "slow_reader", "keepalive",
    "cancel_reaches_the_server", "deadline_reaches_the_server",
]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("--authority")
    parser.add_argument("--token")
    parser.add_argument("--case", action="append")
    args = parser.parse_args()
    options = [("grpc.max_receive_message_length", -1), ("grpc.enable_http_proxy", 0)]
    options += [("grpc.keepalive_time_ms", 1000), ("grpc.http2.max_pings_without_data", 0)]
    if args.authority:
        options.append(("grpc.default_authority", args.authority))
    metadata = [("authorization", f"Bearer {args.token}")] if args.token else []
    with grpc.insecure_channel(args.target, options=options) as channel:
        client = Client(channel, metadata)
        for case in args.case or CASES:
            try:
                result = {"case": case, "ok": True, "value": getattr(client, case)()}
            except Exception as error:  # a failed case is a line, not the end of the run
                result = {"case": case, "ok": False, "error": f"{type(error).__name__}: {error}"}
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
