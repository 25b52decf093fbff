"""The log of a job on a cluster, line by line as it comes, until the job has ended."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import aiohttp
import requests
from ray.job_submission import JobDetails

from cyclesep.cli.submission.client import Client, explained
from cyclesep.errors import ClusterError

# A stream that says nothing may have been lost without a word: the job's status is asked, and a new one begun.
_ASK_SECONDS = 3.0
_SILENT_SECONDS = 60.0
# How long a head may be away, as while its node restarts, before it is given up.
_AWAY_SECONDS = 60.0
_BROKEN = (aiohttp.ClientError, RuntimeError, OSError, asyncio.TimeoutError)


def follow(client: Client, job_id: str, write: Callable[[str], None]) -> JobDetails:
    """Give `write` all of the job's log, from its beginning and as it grows; returns when the job has ended.

    Raises ClusterError if there is no such job, or if the head is away for a minute.
    """
    return asyncio.run(_Follower(client, job_id, write).run())


class _Follower:
    def __init__(self, client: Client, job_id: str, write: Callable[[str], None]) -> None:
        self._client = client
        self._job_id = job_id
        self._write = write
        self._shown = 0
        """Characters of the log that were written; every new stream begins at the first one again."""

    async def run(self) -> JobDetails:
        details = await self._details()
        while not details.status.is_terminal():
            await self._tail()
            await asyncio.sleep(0.5)
            details = await self._details()
        with explained(self._client.url, self._job_id):
            log = await asyncio.to_thread(self._client.get_job_logs, self._job_id)
        self._write(log[self._shown :])
        return details

    async def _tail(self) -> None:
        """Show what one stream brings, until it ends, breaks, or has been silent for long."""
        stream = self._client.tail_job_logs(self._job_id)
        seen, heard = 0, time.monotonic()
        following = asyncio.ensure_future(_next(stream))
        try:
            while time.monotonic() - heard < _SILENT_SECONDS:
                done, _ = await asyncio.wait({following}, timeout=_ASK_SECONDS)
                if done:
                    text = following.result()
                    if text is None:
                        return
                    seen, heard = seen + len(text), time.monotonic()
                    self._show(text, until=seen)
                    following = asyncio.ensure_future(_next(stream))
                elif (await self._details()).status.is_terminal():
                    return
        finally:
            following.cancel()
            with suppress(asyncio.CancelledError, *_BROKEN):
                await following
            with suppress(*_BROKEN):
                await stream.aclose()

    def _show(self, text: str, *, until: int) -> None:
        """Write what is new of a piece that ends at character `until` of the log."""
        if until > self._shown:
            self._write(text[self._shown - until :])
            self._shown = until

    async def _details(self) -> Any:
        until = time.monotonic() + _AWAY_SECONDS
        while True:
            try:
                with explained(self._client.url, self._job_id):
                    return await asyncio.to_thread(self._client.get_job_info, self._job_id)
            except ClusterError as problem:
                is_away = isinstance(problem.__cause__, ConnectionError | requests.RequestException)
                if not is_away or time.monotonic() > until:
                    raise
            await asyncio.sleep(2.0)


async def _next(stream: AsyncIterator[str]) -> str | None:
    """The next piece of a log; None where the stream ended or broke."""
    try:
        return await anext(stream)
    except (StopAsyncIteration, *_BROKEN):
        return None
