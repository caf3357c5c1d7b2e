"""The group ``mrm bench``."""

import click

from mrm.tools.bench.balloon.command import command as balloon
from mrm.tools.bench.heap.command import command as heap
from mrm.tools.bench.programs.command import command as programs
from mrm.tools.bench.remap import command as remap
from mrm.tools.bench.touch.command import command as touch


@click.group("bench")
def command() -> None:
    """Measure side by side: remapping, the balloon, first touches; the heap beside others, and whole programs."""


command.add_command(remap)
command.add_command(balloon)
command.add_command(touch)
command.add_command(heap)
command.add_command(programs)
