"""How the tests know that a server is done with a request that broke off."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.peers.connections import wait_until_done

ALMOST_AT_ONCE = 0.1


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def port(listener: socket.socket) -> int:
    number: int = listener.getsockname()[1]
    return number


@pytest.mark.parametrize("sent", [b"", bytes(100_000)], ids=["nothing", "a piece"])
def test_it_is_not_done_while_it_holds_a_connection_that_its_client_closed(
    listener: socket.socket, sent: bytes
) -> None:
    with socket.create_connection(listener.getsockname()) as client:
        client.sendall(sent)
    with pytest.raises(AssertionError, match="still holds"):
        wait_until_done(port(listener), ALMOST_AT_ONCE)
    held, _ = listener.accept()
    with held, pytest.raises(AssertionError, match="still holds"):
        wait_until_done(port(listener), ALMOST_AT_ONCE)
    wait_until_done(port(listener), ALMOST_AT_ONCE)


def test_a_connection_that_its_client_keeps_is_not_waited_for(listener: socket.socket) -> None:
    with socket.create_connection(listener.getsockname()):
        held, _ = listener.accept()
        with held:
            wait_until_done(port(listener), ALMOST_AT_ONCE)


def test_what_other_servers_hold_is_not_waited_for(listener: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        with socket.create_connection(other.getsockname()):
            pass
        wait_until_done(port(listener), ALMOST_AT_ONCE)
