"""What the kernel says: CPU time of processes and process trees, and what this machine is."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def _fields(pid: int) -> list[str]:
    # The command is in parentheses and may hold blanks; what follows begins with the state, field 3 of proc(5).
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()


def cpu_seconds(pid: int) -> float:
    """User and system time of one process with all of its threads."""
    fields = _fields(pid)
    return (int(fields[11]) + int(fields[12])) / TICKS


def tree_cpu_seconds(root: int) -> float:
    """The same for a process, its living descendants, and its children that have ended."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parents.setdefault(int(_fields(int(entry.name))[1]), []).append(int(entry.name))
            except OSError:
                continue  # it has ended meanwhile
    total, todo = 0.0, [root]
    while todo:
        pid = todo.pop()
        try:
            fields = _fields(pid)
        except OSError:
            continue
        total += sum(map(int, fields[11:15])) / TICKS
        todo += parents.get(pid, [])
    return total


def read_clocks(watch: dict[str, int]) -> dict[str, float]:
    """CPU seconds so far of each named process; a name that ends in ``*`` means the whole tree below it."""
    return {
        name.rstrip("*"): (tree_cpu_seconds if name.endswith("*") else cpu_seconds)(pid) for name, pid in watch.items()
    }


def describe() -> dict[str, object]:
    """The machine and its load now, for the head of a report."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": model,
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "commit": _commit(),
    }


def _commit() -> str:
    git = shutil.which("git")
    if git is None:
        return "unknown"
    here = Path(__file__).parent
    said = subprocess.run(
        [git, "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True, check=False
    )
    return said.stdout.strip() or "unknown"
