"""The group ``mrm bench``."""

import click

from mrm.tools.bench.balloon.command import command as balloon
from mrm.tools.bench.remap import command as remap
from mrm.tools.bench.touch.command import command as touch


@click.group("bench")
def command() -> None:
    """Measure side by side: ways of remapping, the balloon beside the kernel's own calls, first touches."""


command.add_command(remap)
command.add_command(balloon)
command.add_command(touch)
