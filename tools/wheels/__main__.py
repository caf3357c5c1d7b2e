"""The command line: ``python -m tools.wheels``, from a checkout's top folder."""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import click
from rich.console import Console

from tools.machines.needs import MachineError
from tools.wheels.debian import KINDS, fetch
from tools.wheels.make import (
    BUILD_NEEDS,
    REPAIR_NEEDS,
    environment,
    look_into,
    make_sdist,
    make_wheel,
    repair,
    unpack,
)
from tools.wheels.pythons import Python, find, named
from tools.wheels.report import Row, as_json, show
from tools.wheels.trial import try_wheel

CHECKOUT = Path(__file__).resolve().parents[2]


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("words", nargs=-1, metavar="[fetch] [PYTHON]...")
@click.option("--list", "only_list", is_flag=True, help="Say which interpreters there are.")
@click.option("--no-tests", is_flag=True, help="Make the wheels and look into them only.")
@click.option("--tests", "chosen", multiple=True, metavar="FILE", help="Only these files of tests/.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("dist"), show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write what came of it there.")
@click.option("--seconds", default=3600.0, show_default=True, help="For the tests of one wheel.")
@click.pass_context
def main(
    ctx: click.Context,
    words: tuple[str, ...],
    only_list: bool,
    no_tests: bool,
    chosen: tuple[str, ...],
    out: Path,
    json_file: Path | None,
    seconds: float,
) -> None:
    """Make mrm's wheels, one for each Python that is found or named, and test each as installed.

    PYTHON is a name such as 3.13 or 3.13t, or a path. `fetch 3.14 3.13t 3.13t-old` gets
    interpreters from Debian's packages, into $MRM_CACHE or ~/.cache/mrm.

    \b
    Exit status: 0 all is well; 1 a wheel could not be made, is wrong, or failed a test; 3 no
    such Python.
    """
    console = Console()
    try:
        if words[:1] == ("fetch",):
            for name in words[1:] or KINDS:
                console.print(f"{name}: {fetch(name)}", highlight=False)
            return
        pythons = [named(word) for word in words] or find()
    except MachineError as error:
        console.print(f"[bold red]{error}[/]", highlight=False)
        ctx.exit(3)
    if only_list:
        for python in pythons:
            console.print(
                f"{python.version:9} {python.tag:14} {python.libc:11} {python.path}", highlight=False
            )
        return
    rows = make_all(
        pythons, out, [f"tests/{Path(name).name}" for name in chosen], not no_tests, seconds, console
    )
    show(rows, console)
    if json_file:
        json_file.write_text(json.dumps(as_json(rows), indent=2) + "\n")
    ctx.exit(0 if rows and all(row.passed for row in rows) else 1)


def make_all(
    pythons: list[Python], out: Path, arguments: list[str], tests: bool, seconds: float, console: Console
) -> list[Row]:
    """A wheel for each kind of interpreter, and a trial on each interpreter."""
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    with tempfile.TemporaryDirectory(prefix="mrm-wheels-") as name:
        os.chmod(name, 0o755)  # some tests become an ordinary user, who has to import, too
        work = Path(name)
        tools = environment(sys.executable, work / "tools", (*BUILD_NEEDS, *REPAIR_NEEDS))
        sdist = make_sdist(CHECKOUT, tools, work / "sdist")
        shutil.copy2(sdist, out)
        source = unpack(sdist, work / "source")
        made: dict[str, Path] = {}
        for i, python in enumerate(pythons):
            row = Row(python)
            rows.append(row)
            console.print(f"{python.version}, {python.tag}, {python.libc}", style="dim", highlight=False)
            try:
                if python.tag not in made:
                    shutil.rmtree(source / "build", ignore_errors=True)
                    if python.tag.endswith("t"):
                        for written in (source / "mrm").rglob("*.c"):
                            written.unlink()  # it says whether a GIL is needed
                    plain = make_wheel(python, source, work / f"plain-{i}")
                    made[python.tag] = repair(plain, tools, work / f"repaired-{i}")
                    shutil.copy2(made[python.tag], out)
                row.contents = look_into(made[python.tag], python, CHECKOUT)
                if tests:
                    folder = work / f"trial-{i}"
                    row.trial = try_wheel(made[python.tag], python, CHECKOUT, folder, arguments, seconds)
            except MachineError as error:
                row.wrong = str(error)
    return rows


if __name__ == "__main__":
    sys.exit(main())
