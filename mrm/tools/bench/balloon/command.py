"""The command ``mrm bench balloon``."""

from pathlib import Path

import click

from mrm.tools.bench.options import finish, frames, outputs, progress, terminal, threads

MOST_THREADS = 64


@click.command("balloon")
@click.option("--size", default="4GiB", show_default=True, callback=frames,
              help="How much goes in and comes out.")  # fmt: skip
@click.option("--cycles", type=click.IntRange(1), default=30, show_default=True,
              help="How often; medians are reported.")  # fmt: skip
@click.option("--threads", default="1,2", show_default=True, callback=threads(1, MOST_THREADS),
              help="Numbers of threads that fetch, by commas.")  # fmt: skip
@outputs
def command(
    size: int, cycles: int, threads: list[int], json_path: Path | None, report: Path | None, check: bool
) -> None:
    """How fast memory goes to the kernel and comes again, on this machine.

    Cycles of inflate and deflate, each beside the kernel's own calls for the same pages, by
    hand and in their fastest way; to the kernel's pool of huge pages, and, with root, on to
    the system. Then a neighbour that streams through memory beside them: what is left of
    its rate on average and in its slowest windows, and how long commits wait.

    It wants --size in huge pages and a few more: as root, `mrm fund 4104MiB`. With fewer it
    measures what it can, and says so. Settings of the system come back as they were,
    unless it is ended in the middle of a cycle: `mrm fund` raises what was lowered by hand then.
    """
    from mrm.tools.bench.balloon.run import run

    out = terminal(json_path)
    with progress("looking at the machine") as advance:
        result = run(size, cycles, threads, advance)
    finish("mrm.tools.bench.balloon", result, out, json_path, report, check)
