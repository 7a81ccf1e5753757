"""The spool on a real disk: what was put is drained, in order, once, whatever was cut, full or damaged."""

from __future__ import annotations

import asyncio
import errno
import os
import uuid
from datetime import UTC, datetime

import pytest

from services.update_check.spool import Spool
from shared.domain.observation import Observation, ObservationKind, ObservationSource
from shared.errors import Unavailable


def report(number: int) -> Observation:
    return Observation(
        event_id=uuid.UUID(int=number),
        kind=ObservationKind.STAGED,
        source=ObservationSource.OMAHA,
        node_id=uuid.UUID(int=1),
        application_id=uuid.UUID(int=2),
        machine_id="m\n1",
        version="1.0.0",
        boot_id="b",
        at=datetime(2026, 1, 1, tzinfo=UTC),
        facts={"track": "stable\r\nü"},
    )


def numbers(batches: list[list[Observation]]) -> list[int]:
    return [observation.event_id.int for batch in batches for observation in batch]


class Recorder:
    """Takes batches as Postgres would; refuses while it is away."""

    def __init__(self) -> None:
        self.batches: list[list[Observation]] = []
        self.away = False

    async def __call__(self, batch: list[Observation]) -> None:
        if self.away:
            raise ConnectionResetError
        await asyncio.sleep(0)
        self.batches.append(batch)


async def test_what_was_put_is_drained_in_order(tmp_path):
    """Also by the next life of the process; then nothing is left, not even the file."""
    spool = Spool(tmp_path / "spool", max_bytes=1_000_000)
    assert spool.empty
    await asyncio.gather(*(spool.put([report(2 * n), report(2 * n + 1)]) for n in range(600)))
    assert spool.size_bytes == (tmp_path / "spool" / "reports.ndjson").stat().st_size
    recorder = Recorder()

    reopened = Spool(tmp_path / "spool", max_bytes=1_000_000)
    assert reopened.size_bytes == spool.size_bytes
    assert await reopened.drain(recorder) == 1200

    assert numbers(recorder.batches) == list(range(1200))
    assert recorder.batches[0][0] == report(0)
    assert max(map(len, recorder.batches)) == 500
    assert reopened.empty
    assert list((tmp_path / "spool").iterdir()) == []
    assert await reopened.drain(recorder) == 0


async def test_nothing_is_forgotten_while_postgres_is_away(tmp_path):
    """A drain that fails leaves all; what was recorded before it failed comes again, with its event id."""
    spool = Spool(tmp_path, max_bytes=10_000_000)
    await spool.put([report(n) for n in range(3)])
    recorder = Recorder()
    recorder.away = True
    with pytest.raises(ConnectionResetError):
        await spool.drain(recorder)
    assert not spool.empty
    recorder.away = False
    assert await spool.drain(recorder) == 3


async def test_what_is_put_while_it_drains_is_not_lost(tmp_path):
    """Appending and cutting take turns; everything comes once and in order."""
    spool = Spool(tmp_path, max_bytes=100_000_000)
    recorder = Recorder()
    await spool.put([report(0)])
    written = asyncio.Event()

    async def put() -> None:
        for number in range(1, 300):
            await spool.put([report(number)])
        written.set()

    async def drain() -> int:
        drained = 0
        while not (written.is_set() and spool.empty):
            drained += await spool.drain(recorder)
            await asyncio.sleep(0)
        return drained

    _, one, two = await asyncio.gather(put(), drain(), drain())

    assert one + two == 300
    assert numbers(recorder.batches) == list(range(300))


async def test_a_line_that_a_crash_cut_is_forgotten_and_harms_no_other(tmp_path):
    """It was never acknowledged; the next line does not join it."""
    spool = Spool(tmp_path, max_bytes=1_000_000)
    await spool.put([report(0), report(1)])
    path = tmp_path / "reports.ndjson"
    with path.open("ab") as file:
        file.write(b'{"event_id":"0000')

    again = Spool(tmp_path, max_bytes=1_000_000)
    await again.put([report(2)])
    recorder = Recorder()
    await again.drain(recorder)

    assert numbers(recorder.batches) == [0, 1, 2]


async def test_a_damaged_line_is_set_aside_and_the_rest_goes_on(tmp_path):
    """Kept beside, for people."""
    spool = Spool(tmp_path, max_bytes=1_000_000)
    await spool.put([report(0)])
    with (tmp_path / "reports.ndjson").open("ab") as file:
        file.write(b"\0\0\0\0\n")
    again = Spool(tmp_path, max_bytes=1_000_000)
    await again.put([report(1)])
    recorder = Recorder()
    await again.drain(recorder)

    assert numbers(recorder.batches) == [0, 1]
    assert (tmp_path / "reports.damaged").read_bytes() == b"\0\0\0\0\n"


async def test_a_full_spool_refuses_with_a_time_to_come_back(tmp_path):
    """What it holds stays."""
    spool = Spool(tmp_path, max_bytes=100)
    await spool.put([report(0)])
    with pytest.raises(Unavailable, match="most it may") as refused:
        await spool.put([report(1)])
    assert refused.value.retry_after_s == 60
    recorder = Recorder()
    await spool.drain(recorder)
    assert numbers(recorder.batches) == [0]
    await spool.put([report(2)])


@pytest.mark.parametrize("call", ["write", "fsync"])
async def test_a_disk_that_refuses_leaves_no_half_line(tmp_path, monkeypatch, call):
    """Written in part, or not made durable: the report is refused and the file is as it was."""
    spool = Spool(tmp_path, max_bytes=1_000_000)
    await spool.put([report(0)])
    real = getattr(os, call)

    def half(descriptor: int, data: bytes) -> int:
        return real(descriptor, data[: len(data) // 2])

    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, call, half if call == "write" else broken)
    with pytest.raises(Unavailable, match="cannot be written"):
        await spool.put([report(1)])
    monkeypatch.undo()
    await spool.put([report(2)])
    recorder = Recorder()
    await spool.drain(recorder)

    assert numbers(recorder.batches) == [0, 2]
