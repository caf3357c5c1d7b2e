"""What commands ``mrm`` has: a table, from which each is imported when it is used.

``mrm --help`` is told from the table alone, so that it is there at once, and works
where the compiled modules do not.
"""

import importlib
from typing import NamedTuple

import click


class Entry(NamedTuple):
    """One line of the table."""

    place: str  # module:attribute of the click command
    help: str  # its line in `mrm --help`


COMMANDS = {
    "doctor": Entry(
        "mrm.tools.doctor.command:command", "What this machine offers, and what stands in the way."
    ),
    "fund": Entry("mrm.tools.fund_command:command", "Have the kernel set huge pages aside."),
    "top": Entry("mrm.tools.watch.top:command", "Watch a running process's pool; list the pools there are."),
    "stats": Entry(
        "mrm.tools.watch.stats:command", "Print figures of a running process's pools for programs."
    ),
    "replay": Entry(
        "mrm.tools.replay.command:command", "Run a log of a heap's calls again: find leaks, size a pool."
    ),
    "coverage": Entry(
        "mrm.tools.coverage.command:command", "How much of a process's memory really lies on huge pages."
    ),
    "run": Entry("mrm.tools.run.command:command", "Run a Python program with its memory on huge pages."),
    "demo": Entry(
        "mrm.tools.demo.command:command", "Move pages under working threads, and prove that nothing is lost."
    ),
    "bench": Entry("mrm.tools.bench:command", "Measure side by side: remapping, the balloon, the heap."),
    "stress": Entry(
        "mrm.tools.stress.command:command",
        "Race threads on a pool for as long as you like, and check it all.",
    ),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, imported now."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module, _, attribute = entry.place.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("managed-runtime-memory")
    except PackageNotFoundError:
        return "(not installed)"


def _show_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(f"mrm {_version()}")
        ctx.exit()


@click.group(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version.",
)
def group() -> None:
    """The memory manager under a managed runtime.

    \b
    Begin with:
      mrm doctor        see whether this machine is ready
      mrm fund 2GiB     set huge pages aside (as root, once)
      mrm demo          watch pages move under working threads

    \b
    Every command ends with
      0  all is well
      1  something was found, or failed
      2  the command line makes no sense
      3  this machine does not allow it (rights, kernel, memory, or a missing extra)
    """
