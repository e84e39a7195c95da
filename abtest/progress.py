"""Progress of long work on stderr: stage, percent, what it is at, time left. Also the clock of `timings`."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

_REDRAW_S = 0.2
_LOG_STEP = 0.25


class Progress:
    """Draws one line a stage: redrawn on a terminal, a few plain lines elsewhere, nothing when quiet.

    `timings` maps each stage to its wall seconds, in the order in which the stages ran.
    """

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self.timings: dict[str, float] = {}
        self._quiet = quiet
        self._stream = stream if stream is not None else sys.stderr
        self._live = not quiet and self._stream.isatty()
        self._name = ""
        self._started = self._drawn = 0.0
        self._logged = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage and announce its end."""
        self._name, self._started, self._drawn, self._logged = name, time.perf_counter(), 0.0, 0.0
        if self._live:
            self._draw("")
        yield
        seconds = time.perf_counter() - self._started
        self.timings[name] = round(self.timings.get(name, 0.0) + seconds, 3)
        self._say(f"{name}: done in {seconds:.1f} s")

    def update(self, detail: str, fraction: float) -> None:
        """Where the running stage is: `fraction` of it is done."""
        now = time.perf_counter()
        left = (now - self._started) * (1 - fraction) / fraction if fraction > 0 else float("nan")
        text = f"{fraction:4.0%}  {detail}" + (f"  about {left:.0f} s left" if 0 < fraction < 1 else "")
        if self._live:
            if now - self._drawn >= _REDRAW_S:
                self._drawn = now
                self._draw(text)
        elif fraction - self._logged >= _LOG_STEP:
            self._logged = fraction
            self._say(f"{self._name}: {text}")

    def simulated(self, fraction: float, impressions: int) -> None:
        """Progress of a simulation, with its speed."""
        seconds = max(time.perf_counter() - self._started, 1e-9)
        self.update(f"{impressions:,} impressions, {impressions / seconds:,.0f} a second", fraction)

    def _draw(self, text: str) -> None:
        print(f"\r\x1b[2K{self._name}: {text}", end="", file=self._stream, flush=True)

    def _say(self, text: str) -> None:
        if self._quiet:
            return
        print(f"\r\x1b[2K{text}" if self._live else text, file=self._stream, flush=True)
