"""Bodies that arrive slowly or are refused before their end, over connections of our own."""

import socket
import time
from urllib.parse import urlsplit

import pytest
import requests

from serving.function.reading import BODY_SECONDS, MEMORY_SECONDS
from tests.pictures import image_file


def test_who_sends_too_slowly_is_told_so_and_holds_up_nobody(url: str) -> None:
    address = urlsplit(url)
    assert address.hostname and address.port
    slow = [socket.create_connection((address.hostname, address.port)) for _ in range(3)]
    for each in slow:
        each.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 5000\r\n\r\n")
    start = time.monotonic()
    answered = dict.fromkeys(slow, b"")
    while not all(answered.values()) and time.monotonic() - start < 3 * BODY_SECONDS[0]:
        for each in slow:
            if not answered[each]:
                try:
                    each.sendall(b"x")
                    each.settimeout(0.2)
                    answered[each] = each.recv(65536)
                except TimeoutError:
                    continue
        asked = {"data": image_file(), "headers": {"Content-Type": "image/jpeg"}, "timeout": 5}
        assert requests.post(url, **asked).status_code == 200
    for each, begun in answered.items():
        answer = begun if begun.endswith(b"}\n") else begun + one_answer(each)
        assert b" 408 " in answer.partition(b"\r\n")[0] and b'"too_slow"' in answer
    for each in slow:
        each.close()


def test_a_refusal_waits_for_its_body_so_that_the_next_request_is_found(url: str) -> None:
    address = urlsplit(url)
    assert address.hostname and address.port
    body = bytes(30_000)
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(body)
    with socket.create_connection((address.hostname, address.port)) as connection:
        for _ in range(3):
            connection.sendall(head + body[:10_000])
            connection.settimeout(0.3)
            with pytest.raises(TimeoutError):
                connection.recv(1)
            connection.settimeout(5)
            connection.sendall(body[10_000:])
            assert b" 415 " in one_answer(connection)
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b'"status": "ok"' in one_answer(connection)


def one_answer(connection: socket.socket) -> bytes:
    said = b""
    while not said.endswith(b"}\n"):
        more = connection.recv(65536)
        assert more, said
        said += more
    return said


def test_a_large_body_that_stops_keeps_other_large_ones_out_and_small_ones_not(url: str) -> None:
    address = urlsplit(url)
    assert address.hostname and address.port
    small, large = image_file(), image_file() + bytes(2 * 2**20)
    kind = {"Content-Type": "image/jpeg"}
    with socket.create_connection((address.hostname, address.port)) as stopped:
        # Of unknown length, so that it may become as large as any.
        stopped.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nTransfer-Encoding: chunked\r\n\r\n")
        stopped.sendall(b"%x\r\n" % len(large) + large + b"\r\n")
        time.sleep(0.5)
        begin = time.monotonic()
        refused = requests.post(url, data=large, headers=kind, timeout=30)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "busy")
        assert MEMORY_SECONDS <= time.monotonic() - begin < BODY_SECONDS[0]
        assert requests.post(url, data=small, headers=kind, timeout=5).status_code == 200
    assert requests.post(url, data=large, headers=kind, timeout=30).status_code == 200, "it has hung up"
