"""The connections from outside to services of the sandbox: a stream of the link is a TCP connection to the loopback."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from execd.dispatch import Handler
from execd.errors import ExecdError
from execd.wire.aio import BROKEN, Data, Stream
from execd.wire.frames import MAX_PAYLOAD_BYTES, Channel
from execd.wire.messages import Done, PortConnect, Request

# A service whose queue is full does not answer at all. Any other service answers at once.
CONNECT_TIMEOUT_S = 10.0


class Forwarding:
    """The handler. Each stream has a connection of its own."""

    def handlers(self) -> dict[type[Request], Handler]:
        """Return the handler of each request."""
        return {PortConnect: self.connect}

    async def connect(self, stream: Stream, request: PortConnect) -> None:
        """Carry bytes both ways until both sides have ended, or one has failed.

        If the call is cancelled, close the connection.
        """
        connection = await _connect(request.port)
        with contextlib.closing(connection):
            await stream.send(Done())
            feeding = asyncio.ensure_future(_feed(stream, connection))
            try:
                await _carry(connection, stream)
                stream.end()
                await feeding  # data that nobody reads is taken too; otherwise the client would wait for credit
            finally:
                feeding.cancel()


async def _connect(port: int) -> socket.socket:
    if not 1 <= port <= 65535:
        raise ExecdError("request.invalid", f"{port} is not a port")
    try:
        try:
            return await _connect_to(socket.AF_INET, "127.0.0.1", port)
        except ConnectionRefusedError:  # some services listen on the other address only
            with contextlib.suppress(OSError):
                return await _connect_to(socket.AF_INET6, "::1", port)
            raise
    except ConnectionRefusedError:
        raise ExecdError("port.refused", f"nothing listens on port {port} of the sandbox") from None
    except TimeoutError:
        raise ExecdError("port.timeout", f"port {port} of the sandbox does not accept connections") from None
    except OSError as error:
        raise ExecdError("port.failed", f"port {port} of the sandbox: {error.strerror}") from error


async def _connect_to(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    connection = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await asyncio.get_running_loop().sock_connect(connection, (address, port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        connection.close()
        raise
    return connection


async def _carry(connection: socket.socket, stream: Stream) -> None:
    loop = asyncio.get_running_loop()
    while True:
        try:
            data = await loop.sock_recv(connection, MAX_PAYLOAD_BYTES)
        except OSError as error:
            raise ExecdError("port.failed", f"the service reset the connection: {error.strerror}") from error
        if not data:
            return
        await stream.write(data, Channel.STDOUT)


async def _feed(stream: Stream, connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    is_broken = False
    with contextlib.suppress(*BROKEN):  # the handler notices the broken stream as well
        while (item := await stream.receive()) is not None:
            if isinstance(item, Data) and not is_broken:
                try:
                    await loop.sock_sendall(connection, item.data)
                except OSError:
                    is_broken = True  # the client still reads what the service has sent
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
