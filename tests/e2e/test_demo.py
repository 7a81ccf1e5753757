"""`uneventful demo`: ends well only if the good release reached every node and the bad one was halted."""

from __future__ import annotations

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

from services.standalone.processes import plain_environment

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]

LIMIT_S = 180


class Ended:
    """A demo that has ended: its status, its last line, what it said to people, and every process that it had."""

    def __init__(self, directory: Path, *options: str) -> None:
        said, people = directory / "stdout", directory / "stderr"
        self.seen: dict[int, psutil.Process] = {}
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


def test_a_bad_release_is_stopped_by_itself(tmp_path: Path) -> None:
    """Status 0, the whole summary as JSON on the last line, in less than three minutes, and nothing left behind."""
    demo = Ended(tmp_path, "--nodes", "120", "--seed", "3")
    assert demo.status == 0, f"{demo.lines}\n{demo.people}"
    summary = demo.summary
    good, bad = summary["good"], summary["bad"]
    assert summary["ok"] is True
    assert (good["committed"], good["rolled_back"], good["halted"]) == (120, 0, False)
    assert bad["halted"] is True
    assert bad["granted_after_halt"] == 0
    # The pace kept the harm small, and the two counts of it agree.
    assert 2 <= bad["rolled_back"] <= bad["nodes_exposed"] < 60
    assert bad["rolled_back"] + bad["committed"] == bad["nodes_exposed"] <= bad["granted"]
    assert 0 < bad["report_to_halt_ms"] < 10_000
    assert bad["report_to_halt_ms"] <= bad["report_to_first_refusal_ms"]
    assert "rolled back or fell silent" in bad["reason"]
    # Offered, downloading, downloaded, staged, booted, committed: six of each node at least.
    assert summary["events_in_ledger"] > 6 * 120
    assert summary["ledger_verified"] is True
    assert summary["bus"] in ("rabbitmq", "none")
    assert 5 < summary["seconds"] < demo.seconds < LIMIT_S
    assert f"{bad['granted_after_halt']} offers after the halt" in demo.people

    assert len(demo.seen) > 12, "the demo's processes were not seen at all"
    assert demo.left_behind() == []
    assert {path.name for path in tmp_path.iterdir()} == {"stdout", "stderr"}


def test_a_bad_release_that_is_none_is_no_success(tmp_path: Path) -> None:
    """Status 1 when the second release goes through as well; also without a broker; the data are kept if so told."""
    data = tmp_path / "kept"
    demo = Ended(tmp_path, "--nodes", "64", "--bad-rate", "0", "--bus", "none", "--data", str(data))
    assert demo.status == 1, demo.people
    summary = demo.summary
    assert summary["ok"] is False
    assert (summary["good"]["committed"], summary["good"]["complete"]) == (64, True)
    assert (summary["bad"]["halted"], summary["bad"]["report_to_halt_ms"]) == (False, None)
    assert (summary["bad"]["committed"], summary["bad"]["rolled_back"]) == (64, 0)
    assert summary["bus"] == "none"
    assert summary["ledger_verified"] is True
    assert demo.left_behind() == []
    assert (data / "postgres").is_dir()
