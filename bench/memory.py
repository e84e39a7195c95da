"""The memory of all processes of a command together: python bench/memory.py --out FILE -- abtest run ...

Proportional set sizes (of a page that n processes share, 1/n each) of the command and of all that it
has started, from /proc/PID/smaps_rollup (Linux, proc(5)), added up every so often. The peak is that of the
sums, so it is missed by what comes and goes between two looks; how many there were is told beside it.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MIB = 1024  # KiB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--every", type=float, default=0.5, help="seconds from one look to the next")
    parser.add_argument("--out", type=Path, help="JSON file with the sum at every look")
    parser.add_argument("command", nargs="+", help="after --")
    options = parser.parse_args()
    found = measure(options.command, options.every)
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({name: value for name, value in found.items() if name != "looks"}))
    sys.exit(found["exit_code"])


def measure(command: Sequence[str], every_s: float) -> dict[str, Any]:
    """Run it to its end. `looks`: seconds since the start, MiB of all processes, number of processes."""
    started = time.monotonic()
    process = subprocess.Popen(command)
    looks: list[tuple[float, int, int]] = []
    largest = 0
    while process.poll() is None:
        sizes = [pss_kib(pid) for pid in family(process.pid)]
        looks.append((round(time.monotonic() - started, 1), sum(sizes) // MIB, len(sizes)))
        largest = max(largest, *sizes)
        time.sleep(every_s)
    peak_s, peak, processes = max(looks, key=lambda look: look[1])
    return {
        "command": list(command),
        "exit_code": process.returncode,
        "seconds": round(time.monotonic() - started, 1),
        "peak_mib": peak,
        "peak_at_s": peak_s,
        "peak_processes": processes,
        "largest_process_mib": largest // MIB,
        "n_looks": len(looks),
        "looks": looks,
    }


def family(pid: int) -> list[int]:
    """The process and all that it has started, directly or not, and that still live."""
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            found += [int(child) for child in _text(children).split()]
    return found


def pss_kib(pid: int) -> int:
    """The proportional set size of a process in KiB; 0 where it has ended."""
    for line in _text(Path(f"/proc/{pid}/smaps_rollup")).splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


if __name__ == "__main__":
    main()
