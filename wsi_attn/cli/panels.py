"""Plain help in sections: options of one `rich_help_panel` stand together, without Rich being loaded."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

ARGUMENTS, OPTIONS = "Arguments", "Options"


class Grouped(TyperCommand):
    """A command whose `--help` has one section for each panel, in the order in which the panels first occur."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the sections; called by `--help`."""
        sections: dict[str, list[tuple[str, str]]] = {ARGUMENTS: [], OPTIONS: []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                other = ARGUMENTS if parameter.param_type_name == "argument" else OPTIONS
                panel = getattr(parameter, "rich_help_panel", None) or other
                sections.setdefault(panel, []).append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)
