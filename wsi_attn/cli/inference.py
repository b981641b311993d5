"""What the commands that answer inputs share: the loop, its lines, and the memory that it took."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import typer

from wsi_attn.cli.output import Console, data, data_json

if TYPE_CHECKING:  # Imports numpy, a third of the time of --help.
    from wsi_attn.data.inputs import Input
    from wsi_attn.inference.batch import Batch, Outcome
    from wsi_attn.tasks.base import Inference


def answer_inputs(
    inputs: Sequence[Input],
    inference: Inference,
    batch: Batch,
    *,
    json: bool,
    quiet: bool,
    also: Callable[[Outcome, Console], Mapping[str, object]] = lambda outcome, console: {},
) -> None:
    """Answer the inputs of a command, print a line each and exit.

    Parameters
    ----------
    also
        Does more with an answered input; returns further fields of its JSON record.
    """
    from wsi_attn.inference.batch import run_inputs

    console = Console(quiet=quiet, total=len(inputs))
    console.info(f"{inference.checkpoint.name}: research and demonstration only, not for diagnosis")
    with console.progress(inference.again) as progress:
        for outcome in run_inputs(inputs, inference, batch, progress):
            answer = outcome.answer
            if answer is None:
                if outcome.error:
                    console.fail(outcome.error)
                continue
            for warning in answer.warnings:
                console.info(f"warning: {warning}")
            if outcome.state == "skipped":
                console.skipped(answer.file, inference.again)
            more = also(outcome, console)
            data_json({**answer.record, **more}) if json else data(answer.line)
    if peak := peak_memory_mb():
        console.info(f"peak memory {peak:.0f} MB")
    raise typer.Exit(console.exit_code())


def peak_memory_mb() -> float | None:
    """Return the peak resident memory of this process in MB; None if the system does not report it."""
    try:
        import resource
    except ImportError:  # On Windows.
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)
