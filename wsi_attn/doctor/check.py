"""The result of one check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """Whether what was checked works."""

    PASS = "PASS"  # noqa: S105 - the word that the report prints
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes
    ----------
    name
        What was checked: a package, `gpu`, `disk`.
    status
        FAIL where commands do not work, WARN where they are slow or limited.
    detail
        What was found.
    fix
        What to do; empty for PASS.
    """

    name: str
    status: Status
    detail: str
    fix: str = ""


def guarded(name: str, check: Callable[[], Check]) -> Check:
    """The result of `check`; FAIL where the check itself raises."""
    try:
        return check()
    except Exception as error:
        detail = " ".join(f"{type(error).__name__}: {error}".split())
        return Check(name, Status.FAIL, detail, "Report this line; the check itself failed")
