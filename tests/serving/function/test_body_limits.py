"""Slow, large and refused request bodies, sent over raw sockets."""

import socket
import time
from urllib.parse import urlsplit

import pytest
import requests

from serving.function.body_limits import BODY_SECONDS, MEMORY_TIMEOUT_SECONDS
from tests.pictures import image_file

pytestmark = pytest.mark.stack
JPEG = {"Content-Type": "image/jpeg"}


def connect(url: str) -> socket.socket:
    address = urlsplit(url)
    return socket.create_connection((str(address.hostname), int(address.port or 80)))


def receive_response(connection: socket.socket) -> bytes:
    """Read until the end of a JSON response."""
    received = b""
    while not received.endswith(b"}\n"):
        more = connection.recv(65536)
        assert more, received
        received += more
    return received


def test_slow_senders_get_408_and_do_not_delay_others(url: str) -> None:
    slow = [connect(url) for _ in range(3)]
    for connection in slow:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 5000\r\n\r\n")
    start = time.monotonic()
    received = dict.fromkeys(slow, b"")
    while not all(received.values()) and time.monotonic() - start < 3 * BODY_SECONDS[0]:
        for connection in slow:
            if not received[connection]:
                try:
                    connection.sendall(b"x")
                    connection.settimeout(0.2)
                    received[connection] = connection.recv(65536)
                except TimeoutError:
                    continue
        assert requests.post(url, data=image_file(), headers=JPEG, timeout=5).status_code == 200
    for connection, beginning in received.items():
        response = beginning if beginning.endswith(b"}\n") else beginning + receive_response(connection)
        assert b" 408 " in response.partition(b"\r\n")[0] and b'"too_slow"' in response
        connection.close()


def test_refused_body_is_read_to_its_end_before_the_next_request(url: str) -> None:
    body = bytes(30_000)
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(body)
    with connect(url) as connection:
        for _ in range(3):
            connection.sendall(head + body[:10_000])
            connection.settimeout(0.3)
            with pytest.raises(TimeoutError):
                connection.recv(1)
            connection.settimeout(5)
            connection.sendall(body[10_000:])
            assert b" 415 " in receive_response(connection)
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b'"status": "ok"' in receive_response(connection)


def test_stalled_large_body_blocks_large_bodies_but_not_small_ones(url: str) -> None:
    small, large = image_file(), image_file() + bytes(2 * 2**20)
    with connect(url) as stalled:
        # Without a length it may become as large as the limit.
        stalled.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nTransfer-Encoding: chunked\r\n\r\n")
        stalled.sendall(b"%x\r\n" % len(large) + large + b"\r\n")
        time.sleep(0.5)
        start = time.monotonic()
        refused = requests.post(url, data=large, headers=JPEG, timeout=30)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "busy")
        assert MEMORY_TIMEOUT_SECONDS <= time.monotonic() - start < BODY_SECONDS[0]
        assert requests.post(url, data=small, headers=JPEG, timeout=5).status_code == 200
    assert requests.post(url, data=large, headers=JPEG, timeout=30).status_code == 200, "after it has disconnected"
