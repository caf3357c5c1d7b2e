"""The group ``mrm bench``."""

import click

from mrm.tools.bench.balloon.command import command as balloon
from mrm.tools.bench.remap import command as remap


@click.group("bench")
def command() -> None:
    """Measure side by side: ways of remapping, and the balloon beside the kernel's own calls."""


command.add_command(remap)
command.add_command(balloon)
