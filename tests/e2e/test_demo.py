"""`uneventful demo`: ends well only if the whole story came true."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from running import is_there

from services.cli.demo_story import ACTS
from services.standalone.processes import plain_environment

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]

LIMIT_S = 180


class Ended:
    """A demo that has ended: its status, its last line, what it said to people, and every process that it had."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        said, people = directory / "stdout", directory / "stderr"
        self.seen: dict[int, psutil.Process] = {}
        directory.mkdir()
        began = time.monotonic()
        with said.open("wb") as stdout, people.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "services.cli", "demo", "--once", "--json", *options],
                stdout=stdout,
                stderr=stderr,
                stdin=subprocess.DEVNULL,
                # pytest's directories are closed to the users that servers run under, as some people's TMPDIR is.
                env=plain_environment(os.environ) | {"TMPDIR": str(directory)},
            )
            try:
                self._watch(process)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        self.seconds = time.monotonic() - began
        self.status = process.returncode
        self.people = people.read_text()
        self.lines = said.read_text().splitlines()

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + LIMIT_S
        while process.poll() is None:
            assert time.monotonic() < deadline, f"the demo takes longer than {LIMIT_S} s"
            for child in _children(process.pid):
                self.seen[child.pid] = child
            try:
                process.wait(0.2)
            except subprocess.TimeoutExpired:
                continue

    @property
    def summary(self) -> dict[str, Any]:
        assert len(self.lines) == 1, f"{self.lines}\n{self.people}"
        found: dict[str, Any] = json.loads(self.lines[-1])
        return found

    def left_behind(self) -> list[str]:
        return [str(process) for process in self.seen.values() if is_there(process)]


def _children(pid: int) -> Iterator[psutil.Process]:
    try:
        yield from psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return


@pytest.fixture(scope="module")
async def demos(tmp_path_factory) -> tuple[Ended, Ended]:
    """One as it is meant, and a small one whose bad releases are none; side by side, since both mostly wait."""
    directory = tmp_path_factory.mktemp("demos")
    return await asyncio.gather(
        asyncio.to_thread(Ended, directory / "story", "--nodes", "200", "--seed", "3"),
        asyncio.to_thread(
            Ended,
            directory / "harmless",
            *("--nodes", "20", "--bad-rate", "0", "--bus", "none", "--data", str(directory / "harmless" / "kept")),
        ),
    )


def test_the_story_comes_true(demos) -> None:
    """Status 0, the whole summary as JSON on the last line, in less than three minutes, and nothing left behind."""
    demo, _ = demos
    assert demo.status == 0, f"{demo.lines}\n{demo.people}"
    summary = demo.summary
    good, bad, prod = summary["good"], summary["bad"], summary["prod"]
    assert summary["ok"] is True
    assert (good["committed"], good["rolled_back"], good["halted"]) == (200, 0, False)
    assert good["gate_soaked_s"] >= 8
    assert (bad["halted"], bad["braked"], bad["superseded"]) == (True, False, True)
    assert bad["granted_after_halt"] == 0
    # The pace kept the harm small, and the two counts of it agree.
    assert 2 <= bad["rolled_back"] <= bad["nodes_exposed"] < summary["canaries"] == 66
    assert bad["rolled_back"] + bad["committed"] == bad["nodes_exposed"] <= bad["granted"]
    assert 0 < bad["report_to_halt_ms"] < 10_000
    assert bad["report_to_halt_ms"] <= bad["report_to_first_refusal_ms"]
    assert "rolled back or fell silent" in bad["reason"]
    assert prod == {"nodes": 134, "exposed_to_bad": 0, "gate_opened": False}
    # Offered, downloading, downloaded, staged, booted, committed: six of each node at least.
    assert summary["events_in_ledger"] > 6 * 200
    assert summary["ledger_verified"] is True
    assert summary["bus"] in ("rabbitmq", "none")
    assert 5 < summary["seconds"] < demo.seconds < LIMIT_S
    assert f"{bad['granted_after_halt']} offers after the halt" in demo.people

    told = summary["story"]
    assert list(dict.fromkeys(line["act"] for line in told)) == list(ACTS)
    assert [line["at_s"] for line in told] == sorted(line["at_s"] for line in told)
    assert all(line["what"] in demo.people for line in told)
    said = {(line["version"], line["what"].partition(":")[0].partition(",")[0]) for line in told}
    assert said >= {
        ("3066.0.0", "alpha"),
        ("3066.1.0", "soaks on 66 canaries"),
        ("3066.2.0", "released to production by itself"),
        ("3066.2.0", "wave 3 of 3"),
        ("3067.1.0", "HALTED"),
        ("3067.2.0", "withdrawn"),
        ("3067.1.1", "runs on 66 of 66 canaries"),
    }

    assert len(demo.seen) > 12, "the demo's processes were not seen at all"
    assert demo.left_behind() == []
    assert {path.name for path in demo.directory.iterdir()} == {"stdout", "stderr"}


def test_a_bad_release_that_is_none_is_no_success(demos) -> None:
    """Status 1 when the bad beta goes through as well; also without a broker; the data are kept if so told."""
    _, demo = demos
    assert demo.status == 1, demo.people
    summary = demo.summary
    assert summary["ok"] is False
    assert (summary["good"]["committed"], summary["good"]["complete"]) == (20, True)
    assert (summary["bad"]["halted"], summary["bad"]["report_to_halt_ms"]) == (False, None)
    assert (summary["bad"]["committed"], summary["bad"]["rolled_back"]) == (summary["canaries"], 0)
    assert summary["bus"] == "none"
    assert summary["ledger_verified"] is True
    assert demo.left_behind() == []
    assert (demo.directory / "kept" / "postgres").is_dir()
