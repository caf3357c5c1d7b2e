"""The group ``mrm bench``."""

import click

from mrm.tools.bench.remap import command as remap


@click.group("bench")
def command() -> None:
    """Measure ways of remapping side by side."""


command.add_command(remap)
