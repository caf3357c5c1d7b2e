"""The command ``mrm bench touch``."""

from pathlib import Path

import click

from mrm.tools.bench.options import frames, json_output, progress, terminal, write_json


@click.command("touch")
@click.option("--size", default="256MiB", show_default=True, callback=frames,
              help="How much comes and goes.")  # fmt: skip
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True,
              help="How often; medians are reported.")  # fmt: skip
@click.option("--wait", type=click.FloatRange(0.0), default=5.0, show_default=True,
              help="Seconds that pages lie free where it waits; a kernel reports them after 2.")  # fmt: skip
@json_output
def command(size: int, rounds: int, wait: float, json_path: Path | None) -> None:
    """What the first touch of a huge page costs, by where the page has been.

    Pages that were kept; that were given to the kernel's pool of huge pages; that were given
    on to the system, and fetched at once, or after a while. In a virtual machine whose host is
    told of free pages, the last ones are the host's by then, and their first touch waits for it.

    The system's pages take root, and it borrows what is missing of --size in huge pages; for
    others it measures what it can, and says so. Settings come back as they were, after kill -9, too.
    """
    from mrm.tools.bench.touch.run import run
    from mrm.tools.bench.touch.table import show

    out = terminal(json_path)
    with progress("looking at the machine") as advance:
        result = run(size, rounds, wait, advance)
    show(result, out)
    if json_path is not None:
        write_json(result.to_json(), json_path)
