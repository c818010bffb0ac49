"""A proxy on loopback that makes an HTTP server as slow as one far away."""

import asyncio
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

_CHUNK = 64 * 1024
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass
class SlowProxy:
    """Delays each request, and holds each connection to a rate; counts requests.

    Requests have no body, and a connection carries one at a time.
    """

    server: int
    """Its port on loopback."""
    delay_s: float
    bytes_per_s: float
    port: int = 0
    requests: list[bytes] = field(default_factory=list)
    """The first line of each."""
    under_way: int = 0
    most_under_way: int = 0

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carries one connection's requests and answers to its end."""
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self.server)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                request = await reader.readuntil(b"\r\n\r\n")
                self.requests.append(request.partition(b"\r\n")[0])
                self.under_way += 1
                self.most_under_way = max(self.most_under_way, self.under_way)
                try:
                    await asyncio.sleep(self.delay_s)
                    to_server.write(request)
                    await self._answer(from_server, writer, request.startswith(b"HEAD"))
                finally:
                    self.under_way -= 1
        writer.close()
        to_server.close()

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_head: bool
    ) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(head)
        length = _LENGTH.search(head)
        left = 0 if is_head or length is None else int(length[1])
        clock = asyncio.get_running_loop()
        began, sent = clock.time(), 0
        while sent < left:
            chunk = await reader.read(min(_CHUNK, left - sent))
            if not chunk:
                return
            writer.write(chunk)
            sent += len(chunk)
            await asyncio.sleep(began + sent / self.bytes_per_s - clock.time())
        await writer.drain()


@contextmanager
def slow_proxy(server: int, *, delay_s: float, bytes_per_s: float) -> Iterator[SlowProxy]:
    """A proxy before the server on this port, in a thread."""
    proxy, loop = SlowProxy(server, delay_s, bytes_per_s), asyncio.new_event_loop()
    listening = loop.run_until_complete(asyncio.start_server(proxy.carry, "127.0.0.1", 0))
    proxy.port = listening.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
