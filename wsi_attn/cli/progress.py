"""Progress of a command: a live line on a terminal, one line per finished input elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

REFRESHES_PER_SECOND = 4
FAILED, SKIPPED = "failed", "skipped"


class _View(Protocol):
    """Display of progress."""

    def show(self, input_name: str, phase: str, done: int, total: int, left: str) -> None:
        """Show the state of the current input."""
        ...


class BarItem:
    """Progress within one input; see `wsi_attn.slide.Item`."""

    def __init__(self, name: str, view: _View, left_in_all: Callable[[], float | None]) -> None:
        self.state = "done"
        self._name = name
        self._view = view
        self._left_in_all = left_in_all
        self._phase = ""
        self._started, self._first = time.monotonic(), 0

    def __call__(self, done: int, total: int, what: str) -> None:
        """See `wsi_attn.slide.Progress`."""
        phase = what.partition(":")[0]
        if phase != self._phase or done < self._first:
            self._phase, self._started, self._first = phase, time.monotonic(), done
        self._view.show(self._name, what, done, total, self._left(done, total))

    def _left(self, done: int, total: int) -> str:
        """Return the time left for all inputs if one is finished, otherwise for this phase; empty if unknown."""
        if (seconds := self._left_in_all()) is not None:
            return f"about {as_time(seconds)} left in all"
        steps = done - self._first
        if steps <= 0 or done >= total:
            return ""
        return f"about {as_time((time.monotonic() - self._started) / steps * (total - done))} left"


class BatchBar:
    """Progress of a command; see `wsi_attn.slide.BatchProgress`.

    Parameters
    ----------
    label
        Text shown outside of any input.
    view
        Display.
    finished
        Receives one line per finished input.
    """

    def __init__(self, label: str, view: _View, finished: Callable[[str], None]) -> None:
        self._view = view
        self._finished = finished
        self._outside = BarItem(label, view, lambda: None)
        self._seconds: list[float] = []

    def __call__(self, done: int, total: int, what: str) -> None:
        """See `wsi_attn.slide.Progress`."""
        self._outside(done, total, what)

    @contextmanager
    def item(self, number: int, count: int, name: str) -> Iterator[BarItem]:
        """See `wsi_attn.slide.BatchProgress`."""
        started = time.monotonic()

        def left_in_all() -> float | None:
            if not self._seconds:
                return None
            mean = sum(self._seconds) / len(self._seconds)
            return mean * (count - number) + max(0.0, mean - (time.monotonic() - started))

        item = BarItem(f"[{number}/{count}] {name}", self._view, left_in_all)
        item(0, 1, "starting")
        try:
            yield item
        except Exception:
            item.state = FAILED
            raise
        finally:
            seconds = time.monotonic() - started
            if not isinstance(sys.exception(), (KeyboardInterrupt, SystemExit)):
                self._finished(f"[{number}/{count}] {name}: {item.state} in {seconds:.1f} s")
        if item.state not in (FAILED, SKIPPED):
            self._seconds.append(seconds)


class Hidden:
    """Shows nothing."""

    def show(self, input_name: str, phase: str, done: int, total: int, left: str) -> None:
        """See `_View.show`."""


class Terminal:
    """A live line on stderr that moves while a step takes long."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._shown = ""
        self._task = bar.add_task("", total=None, input="", left="")

    def show(self, input_name: str, phase: str, done: int, total: int, left: str) -> None:
        """See `_View.show`."""
        if input_name != self._shown:
            self._shown = input_name
            self._bar.reset(self._task)  # The elapsed time is that of the input.
        self._bar.update(self._task, completed=done, total=total, description=phase, input=input_name, left=left)


@contextmanager
def terminal() -> Iterator[Terminal]:
    """Show a live line while the block runs; output printed meanwhile appears above it."""
    from rich import progress
    from rich.console import Console

    columns = (
        progress.SpinnerColumn(),
        progress.TextColumn("{task.fields[input]}", markup=False),
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(bar_width=12),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("{task.fields[left]}", markup=False),
    )
    with progress.Progress(
        *columns,
        console=Console(stderr=True, soft_wrap=True),
        transient=True,
        refresh_per_second=REFRESHES_PER_SECOND,
        redirect_stdout=sys.stdout.isatty(),  # Redirected stdout is data and must stay unchanged.
    ) as bar:
        yield Terminal(bar)


def as_time(seconds: float) -> str:
    """Format seconds as 0:05 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
