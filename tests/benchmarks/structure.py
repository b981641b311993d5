"""Measure the structure of the package in a checkout.

    python tests/benchmarks/structure.py [CHECKOUT ...] [--names]

Prints a Markdown table with one column per checkout; --names also prints what is counted. Definitions:

lines of package code
    Lines of `wsi_attn/**/*.py` that are neither blank, comment nor docstring; and all lines.
public functions
    Functions and methods without a leading underscore in any part of their name, and `__init__` and `__call__`.
    Parameters are counted without `self` and `cls`. A signature is its annotations of parameters and of the result.
bare dict
    `dict` without parameters, or with values of type `Any` or `object`.
floors of the import graph
    Imports on the longest chain between rooms, the direct children of `wsi_attn`, on the graph of import-linter; rooms
    that import each other count as one. --names prints the rooms, of which there is one more.
pairs that duplicates lists
    What the command `duplicates` counts in the package, where it is installed.
view policies
    Modules that call `detect_tissue`, each with pixels and a resolution that it chose.
places that decide about existing output
    Modules that make an error whose class ends in `ExistsError`; all modules of the room `outputs` count as one.
"""

from __future__ import annotations

import argparse
import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

FLOORS = """
import sys
sys.path.insert(0, sys.argv[1])
import grimp
graph = grimp.build_graph("wsi_attn", cache_dir=None)
rooms = sorted(graph.find_children("wsi_attn") - {"wsi_attn.__main__"})
for room in rooms:
    graph.squash_module(room)
for room in rooms:
    for other in sorted(graph.find_modules_directly_imported_by(room) & set(rooms)):
        print(room, other)
"""


def modules(checkout: Path) -> Iterator[tuple[str, ast.Module]]:
    """Name and syntax tree of each module of the package."""
    for path in sorted((checkout / "wsi_attn").rglob("*.py")):
        yield str(path.relative_to(checkout)), ast.parse(path.read_text())


def all_lines(checkout: Path) -> list[str]:
    """Every line."""
    return [line for path in (checkout / "wsi_attn").rglob("*.py") for line in path.read_text().splitlines()]


def code_lines(checkout: Path) -> list[str]:
    """Lines that are code."""
    kept = []
    for path in (checkout / "wsi_attn").rglob("*.py"):
        lines = path.read_text().splitlines()
        text = set()
        for node in ast.walk(ast.parse("\n".join(lines))):
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                text.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        kept += [line for n, line in enumerate(lines, 1) if n not in text and line.strip() and line.strip()[0] != "#"]
    return kept


Function = ast.FunctionDef | ast.AsyncFunctionDef


def public_functions(checkout: Path) -> Iterator[tuple[str, Function, bool]]:
    """Name, node and whether it is a method of each public function."""

    def inside(body: list[ast.stmt], name: str, method: bool) -> Iterator[tuple[str, Function, bool]]:
        for node in body:
            if isinstance(node, Function | ast.ClassDef):
                if node.name.startswith("_") and node.name not in {"__init__", "__call__"}:
                    continue
                if isinstance(node, ast.ClassDef):
                    yield from inside(node.body, f"{name}.{node.name}", True)
                else:
                    yield f"{name}.{node.name}", node, method

    for name, tree in modules(checkout):
        yield from inside(tree.body, name, False)


def arguments_of(node: Function, method: bool) -> list[ast.arg]:
    """Parameters without self and cls."""
    found = [*node.args.posonlyargs, *node.args.args]
    static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in node.decorator_list)
    return (found[1:] if method and not static else found) + node.args.kwonlyargs


def annotations_of(node: Function) -> list[ast.expr]:
    """Annotations of all parameters and of the result."""
    args = node.args
    given = [*args.posonlyargs, *args.args, *args.kwonlyargs, *filter(None, (args.vararg, args.kwarg))]
    found = [a.annotation for a in given if a.annotation] + ([node.returns] if node.returns else [])
    return [
        ast.parse(a.value, mode="eval").body if isinstance(a, ast.Constant) and isinstance(a.value, str) else a
        for a in found
    ]


def has_any(annotation: ast.expr) -> bool:
    """Whether `Any` stands in an annotation."""
    return any(isinstance(node, ast.Name) and node.id == "Any" for node in ast.walk(annotation))


def has_bare_dict(annotation: ast.expr) -> bool:
    """Whether a dict of unknown values stands in an annotation."""
    parameterised = set()
    for node in ast.walk(annotation):
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "dict":
            parameterised.add(node.value)
            value = node.slice.elts[-1] if isinstance(node.slice, ast.Tuple) else node.slice
            if any(isinstance(n, ast.Name) and n.id in {"Any", "object"} for n in ast.walk(value)):
                return True
    names = (node for node in ast.walk(annotation) if isinstance(node, ast.Name) and node.id == "dict")
    return any(node not in parameterised for node in names)


def with_annotation(checkout: Path, test: Callable[[ast.expr], bool]) -> list[str]:
    """Public functions with such an annotation."""
    return [name for name, node, _ in public_functions(checkout) if any(map(test, annotations_of(node)))]


def with_many_parameters(checkout: Path) -> list[str]:
    """Public functions with more than 8 parameters."""
    counts = {name: len(arguments_of(node, method)) for name, node, method in public_functions(checkout)}
    return [f"{name} ({count})" for name, count in counts.items() if count > 8]


def floors(checkout: Path) -> list[str]:
    """The longest chain of rooms."""
    command = [sys.executable, "-c", FLOORS, str(checkout.resolve())]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    below: dict[str, set[str]] = {}
    for line in printed.splitlines():
        room, other = line.split()
        below.setdefault(room, set()).add(other)
        below.setdefault(other, set())
    reached = {room: reachable(below, room) for room in below}
    knots = {room: min([room, *(o for o in reached[room] if room in reached[o])]) for room in below}
    chains: dict[str, list[str]] = {}

    def chain(knot: str) -> list[str]:
        if knot not in chains:
            under = {knots[o] for room in below if knots[room] == knot for o in below[room]} - {knot}
            chains[knot] = [knot, *max((chain(o) for o in sorted(under)), key=len, default=[])]
        return chains[knot]

    return max((chain(knot) for knot in sorted(set(knots.values()))), key=len)


def reachable(below: dict[str, set[str]], room: str) -> set[str]:
    """Rooms that a room imports, directly or not."""
    found: set[str] = set()
    ahead = [room]
    while ahead:
        more = below[ahead.pop()] - found
        found |= more
        ahead.extend(more)
    return found


def layers(checkout: Path) -> list[str]:
    """Floors that import-linter checks."""
    found = re.search(r"^layers = \[(.*?)^\]", (checkout / "pyproject.toml").read_text(), re.DOTALL | re.MULTILINE)
    return re.findall(r'^ *"(.*)",?', found.group(1), re.MULTILINE) if found else []


def duplicates(checkout: Path) -> list[str] | None:
    """Rows of the command `duplicates`; None where it is not installed."""
    tool = shutil.which("duplicates")
    if tool is None:
        return None
    command = [tool, "--repo", str(checkout.resolve() / "wsi_attn"), "--most", "200", "--seconds", "120"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [line for line in printed.splitlines() if re.match(r"D\d+ ", line)]


def makers(checkout: Path, test: Callable[[str], bool]) -> list[str]:
    """Modules that call something whose name passes the test."""
    found = set()
    for module, tree in modules(checkout):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and test(node.func.id):
                found.add("wsi_attn/outputs" if module.startswith("wsi_attn/outputs") else module)
    return sorted(found)


MEASURES: dict[str, Callable[[Path], list[str] | None]] = {
    "lines of package code": code_lines,
    "all lines of the package": all_lines,
    "modules": lambda c: [name for name, _ in modules(c)],
    "public functions with more than 8 parameters": with_many_parameters,
    "public functions with `Any`": lambda c: with_annotation(c, has_any),
    "public functions with a bare dict": lambda c: with_annotation(c, has_bare_dict),
    "floors of the import graph": floors,
    "layers that import-linter checks": layers,
    "pairs that `duplicates` lists": duplicates,
    "the same, without boilerplate": lambda c: [r for r in duplicates(c) or [] if "boilerplate" not in r],
    "view policies": lambda c: makers(c, lambda name: name == "detect_tissue"),
    "places that decide about existing output": lambda c: makers(c, lambda name: name.endswith("ExistsError")),
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkouts", type=Path, nargs="*", default=[Path(__file__).resolve().parents[2]])
    parser.add_argument("--names", action="store_true")
    options = parser.parse_args()
    print(f"| measure | {' | '.join(map(str, options.checkouts))} |\n|---|{'---|' * len(options.checkouts)}")
    listed: list[str] = []
    for title, measure in MEASURES.items():
        found = [measure(checkout) for checkout in options.checkouts]
        less = 1 if measure is floors else 0
        counts = ["-" if names is None else f"{len(names) - less}" for names in found]
        print(f"| {title} | {' | '.join(counts)} |")
        if "lines" not in title and title != "modules":
            for checkout, names in zip(options.checkouts, found, strict=True):
                listed += [f"\n{title}, {checkout}:", *(f"    {name}" for name in names or [])]
    if options.names:
        print("\n".join(listed))


if __name__ == "__main__":
    main()
