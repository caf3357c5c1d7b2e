"""The command ``mrm bench remap``."""

from pathlib import Path

import click

from mrm.tools.bench.options import finish, outputs, power_of_two, progress, terminal, threads


@click.command("remap")
@click.option("--threads", default="0,1,2", show_default=True, callback=threads(0),
              help="Numbers of mutator threads to measure beside, by commas.")  # fmt: skip
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True,
              help="How often each lane gets a window; medians are reported.")  # fmt: skip
@click.option("--seconds", type=click.FloatRange(0), default=0.2, show_default=True,
              help="How long a window lasts at least.")  # fmt: skip
@click.option("--size", default="1GiB", show_default=True, callback=power_of_two,
              help="Frames that are relocated, and as much again for the mutators' heap.")  # fmt: skip
@click.option("--flip-up-to", default="8GiB", show_default=True, callback=power_of_two,
              help="Largest pool to flip; from 1 GiB up, doubling, while huge pages last.")  # fmt: skip
@outputs
def command(
    threads: list[int],
    rounds: int,
    seconds: float,
    size: int,
    flip_up_to: int,
    json_path: Path | None,
    report: Path | None,
    check: bool,
) -> None:
    """What it costs to relocate a huge page, lane by lane, on this machine.

    Every way that there is, side by side in one run: the kernel's calls as anybody has
    them, mrm's batches and views, and the system calls of the latter made by hand.
    Mutator threads read at random meanwhile; the table says what is left of them, and
    how many TLB shootdowns a page costs. The lanes take turns, round after round, and
    what you see is the median.

    It wants two times --size in huge pages, and the largest flip besides: as root,
    `mrm fund 9GiB`. With fewer it measures what it can, and says so.
    """
    from mrm.tools.bench.run import run

    out = terminal(json_path)
    with progress("funding the frames") as advance:
        result = run(threads, rounds, seconds, size, flip_up_to, advance)
    finish("mrm.tools.bench", result, out, json_path, report, check)
