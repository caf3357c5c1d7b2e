"""Writes docs/api.md from the docstrings of the built package.

    python tools/make_api.py           # writes it
    python tools/make_api.py --check   # exit 1 if it is not what would be written

The docstrings are the reference; this only lays them out. tests/test_api.py checks that
the page is current, and that nothing public is without a docstring.
"""

import ast
import dataclasses
import importlib
import inspect
import sys
from pathlib import Path

import mrm

PACKAGE = Path(mrm.__file__).parent
PAGE = Path(__file__).resolve().parent.parent / "docs" / "api.md"
HEAD = """# Python interface

Written by tools/make_api.py from the docstrings: `help(mrm)` says the same. The C
interface is documented in include/mrm/mrm.h, call by call.
"""
ORDER = [
    "Pool",
    "Account",
    "Fund",
    "Window",
    "View",
    "Reservation",
    "Batch",
    "Report",
    "Heap",
    "Buffer",
    "Ticket",
    "Attachment",
    "PoolStats",
    "AccountStats",
    "FundStats",
    "HeapStats",
    "ClassStats",
    "Mapping",
    "Place",
    "Coverage",
    "Portion",
    "Feature",
]

#: What is not in mrm itself, but in a module that is imported by its name; and what is public there.
MODULES = {
    "mrm.adaptors": (
        "Adaptor",
        "Limit",
        "Statistics",
        "Scope",
        "Counts",
        "ScopeTotals",
        "Log",
        "Track",
        "Tracked",
        "OnFailure",
    ),
    "mrm.numpy": ("use", "install", "uninstall", "installed"),
    "mrm.cffi": ("allocator",),
}


#: A number has its type's docstring, which says nothing of it, and something else with each Python.
NUMBERS = {
    "FRAME_SIZE": "Bytes of a frame: the processor's next larger page, 2 MiB where base pages have 4 KiB."
}


def split_signature(name: str, text: str) -> tuple[str, str]:
    """Cython puts the signature into the docstring's first line: the two, apart."""
    first, _, rest = text.partition("\n")
    if first.startswith(f"{name}("):
        return first, rest
    return name, text


def constructor_arguments(stub: str, cls: str) -> str:
    """What a compiled class is made with: only its stub tells."""
    for node in ast.walk(ast.parse((PACKAGE / stub).read_text())):
        if isinstance(node, ast.ClassDef) and node.name == cls:
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                    return ast.unparse(method.args).removeprefix("self, ")
    raise LookupError(f"{stub} tells nothing of how a {cls} is made")


def block(text: str) -> str:
    """A docstring as it is laid out in the source."""
    return "```text\n" + inspect.cleandoc(text).strip() + "\n```\n"


def members(cls: type) -> list[tuple[str, object]]:
    """What is public of a class, and its own: in the order of its definition where Python knows it.

    What it has of bases that have no section themselves is its own, too.
    """
    special = {"__getitem__", "__len__"}
    bases = [
        base
        for base in cls.__mro__[1:]
        if base.__module__.startswith("mrm.") and base.__name__ not in (*mrm.__all__, "Adaptor")
    ]
    return [
        (name, value)
        for one in (cls, *bases)
        for name, value in vars(one).items()
        if (not name.startswith("_") or name in special) and getattr(value, "__doc__", None)
    ]


def section(name: str, place: str = "mrm") -> str:
    """One class or function of the package."""
    thing = getattr(importlib.import_module(place), name)
    signature, text = split_signature(name, NUMBERS.get(name) or thing.__doc__ or "")
    if inspect.isfunction(thing):
        signature = f"{name}{inspect.signature(thing)}"
    elif name == "Pool":
        signature = f"Pool({constructor_arguments('_core.pyi', 'Pool')})"
    elif inspect.isclass(thing) and place != "mrm" and not dataclasses.is_dataclass(thing):
        signature = f"{name}{inspect.signature(thing)}".removesuffix(" -> 'None'")
    lines = [f"## {place}.{signature}\n", block(text)]
    if dataclasses.is_dataclass(thing):
        lines.append("Fields: " + ", ".join(f"`{field.name}`" for field in dataclasses.fields(thing)) + "\n")
    if inspect.isclass(thing) and not issubclass(thing, BaseException):
        for member, value in members(thing):
            if dataclasses.is_dataclass(thing) and member in {
                field.name for field in dataclasses.fields(thing)
            }:
                continue
            signature, text = split_signature(member, value.__doc__ or "")
            lines.append(f"### {name}.{signature.replace('(self, ', '(').replace('(self)', '()')}\n")
            lines.append(block(text))
    return "\n".join(lines)


def page() -> str:
    """The whole page."""
    classes = [name for name in ORDER if name in mrm.__all__]
    errors = sorted(
        name
        for name in mrm.__all__
        if inspect.isclass(getattr(mrm, name)) and issubclass(getattr(mrm, name), (Exception, Warning))
    )
    rest = sorted(set(mrm.__all__) - set(classes) - set(errors))
    parts = [HEAD, *map(section, classes), *map(section, rest)]
    for place, names in MODULES.items():
        parts += [f"# {place}\n", block(importlib.import_module(place).__doc__ or "")]
        parts += [section(name, place) for name in names]
    parts += ["# Errors\n", *map(section, errors)]
    return "\n".join(parts)


def main() -> int:
    """Write the page, or say whether it is current."""
    text = page()
    if "--check" in sys.argv[1:]:
        current = PAGE.exists() and PAGE.read_text() == text
        print(f"{PAGE.name} is {'current' if current else 'not current: run python tools/make_api.py'}")
        return 0 if current else 1
    PAGE.write_text(text)
    print(f"wrote {PAGE} ({len(text.splitlines())} lines)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
