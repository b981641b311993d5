"""`wsi-attn doctor`: check the installation and the machine."""

from __future__ import annotations

from collections import Counter

import typer

from wsi_attn.cli.command import Command
from wsi_attn.cli.options import Report
from wsi_attn.cli.output import Console, data, data_json
from wsi_attn.errors import ExitCode


def doctor(report: Report) -> None:
    """Check Python, packages, CPU, GPU, fonts, caches, OpenSlide, shipped weights, folders and disk.

    Each check is PASS, WARN (slow or limited) or FAIL (commands do not work); WARN and FAIL come with a fix. The exit
    code is 3 if any check is FAIL.
    """
    from wsi_attn.doctor.check import Status
    from wsi_attn.doctor.run import run_checks

    counts: Counter[Status] = Counter()
    for check in run_checks():
        counts[check.status] += 1
        if report.json:
            data_json({"check": check.name, "status": check.status, "detail": check.detail, "fix": check.fix})
            continue
        data(f"{check.status}  {check.name:<22}  {check.detail}")
        if check.fix:
            data(f"{'fix:':>28}  {check.fix}")
    Console(quiet=report.quiet).info(", ".join(f"{counts[status]} {status}" for status in Status))
    raise typer.Exit(ExitCode.INVALID_INPUT if counts[Status.FAIL] else ExitCode.DONE)


COMMAND = Command("doctor", doctor)
