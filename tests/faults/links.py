"""A TCP link that a test can cut, slow, hang and lie on."""

import asyncio
import contextlib
import random
import threading
from collections.abc import Iterator

PIECE = 65_536


class Link:
    """Forwards connections to a port of this machine.

    Attributes:
        port: Where to connect instead.
        delay: Seconds that each piece is held up, either way.
        hangs: Connections are taken and nothing passes, as when a host has vanished.
        drops: Share of connections that are cut in the middle.
        answer: What new connections are answered instead of being forwarded, and their share.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.delay = 0.0
        self.hangs = False
        self.drops = 0.0
        self.answer: tuple[bytes, float] = (b"", 0.0)
        self._refuses = False
        self._open: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        self.port: int = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """Break every connection, and refuse new ones until the link is mended."""
        self._refuses = True
        self._loop.call_soon_threadsafe(self._break)

    def snap(self) -> None:
        """Break every connection; new ones are taken."""
        self._loop.call_soon_threadsafe(self._break)

    def mend(self) -> None:
        """Be a good link again."""
        self.delay, self.hangs, self.drops = 0.0, False, 0.0
        self._refuses, self.answer = False, (b"", 0.0)

    def close(self) -> None:
        """End it."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        self._refuses, self.hangs = True, False
        self._break()
        # Not asyncio's own tasks: one that takes a connection would leave its socket open.
        for task in self._serving:
            task.cancel()
        while self._serving or len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)  # sockets are closed by callbacks that still have to run

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._accept, "127.0.0.1", 0)

    def _break(self) -> None:
        for writer in list(self._open):
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._serving.add(task)
        self._open.add(writer)
        try:
            await self._serve(reader, writer)
        except asyncio.CancelledError:  # the link is being closed
            pass
        finally:
            self._open.discard(writer)
            self._serving.discard(task)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answer, share = self.answer
        if self._refuses:
            return
        if answer and random.random() < share:
            with contextlib.suppress(ConnectionError):
                await reader.read(PIECE)
                writer.write(answer)
                await writer.drain()
                writer.write_eof()
                await reader.read()
            return
        try:
            their_reader, their_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            return
        self._open.add(their_writer)
        doomed = random.random() < self.drops
        try:
            await asyncio.gather(
                self._pass(reader, their_writer, doomed=False),
                self._pass(their_reader, writer, doomed=doomed),
            )
        finally:
            self._open.discard(their_writer)
            their_writer.transport.abort()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, doomed: bool
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(PIECE):
                while self.hangs:
                    await asyncio.sleep(0.01)
                if self.delay:
                    await asyncio.sleep(self.delay)
                if doomed:
                    writer.write(data[: len(data) // 2])
                    await writer.drain()
                    break
                writer.write(data)
                await writer.drain()
        writer.transport.abort() if doomed else writer.close()


@contextlib.contextmanager
def link(target: int) -> Iterator[Link]:
    """A link inside the block."""
    made = Link(target)
    try:
        yield made
    finally:
        made.close()
