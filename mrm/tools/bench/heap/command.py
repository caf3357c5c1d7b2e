"""The command ``mrm bench heap``."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from mrm.sizes import parse_size
from mrm.tools.bench.options import finish, outputs, progress, size, terminal, threads

MOST_THREADS = 64
LEAST_GROWN = parse_size("2MiB")


def _names(context: click.Context, parameter: click.Parameter, value: str | None) -> list[str]:
    """Names by commas, of those that there are; all of them when none is given."""
    from mrm.tools.bench.heap.lineup import ALLOCATORS
    from mrm.tools.bench.heap.workloads import WORKLOADS

    known: Iterable[str] = ALLOCATORS if parameter.name == "allocators" else WORKLOADS
    if value is None:
        return list(known)
    asked = [name.strip() for name in value.split(",") if name.strip()]
    unknown = [name for name in asked if name not in known]
    if unknown or not asked:
        raise click.BadParameter(f"names of {', '.join(known)}, not {', '.join(unknown) or 'none'}")
    return [name for name in known if name in asked]


def _by_commas(name: str, what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(
        f"--{name}", callback=_names, help=f"Only these {what}, by commas; all when not given."
    )


@click.command("heap")
@_by_commas("workloads", "workloads")
@_by_commas("allocators", "allocators")
@click.option("--threads", default="1,2,4", show_default=True, callback=threads(1, MOST_THREADS),
              help="Numbers of threads, by commas.")  # fmt: skip
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True,
              help="Processes for each figure; medians are reported.")  # fmt: skip
@click.option("--seconds", type=click.FloatRange(0, min_open=True), default=0.5, show_default=True,
              help="How long each process is measured, and works before.")  # fmt: skip
@click.option("--grow-to", default="1GiB", show_default=True, callback=size(LEAST_GROWN),
              help="What a block grows to by realloc; with more threads, all of theirs together.")  # fmt: skip
@outputs
def command(
    workloads: list[str],
    allocators: list[str],
    threads: list[int],
    repeats: int,
    seconds: float,
    grow_to: int,
    json_path: Path | None,
    report: Path | None,
    check: bool,
) -> None:
    """Our heap beside glibc, mimalloc, jemalloc and tcmalloc, on this machine.

    Workloads that papers on allocators use: small blocks in pairs, last in first out and at random;
    a server whose threads come and go (larson); producers and consumers (xmalloc); a mix of sizes and
    orders (sh); large blocks that are written whole; a block that grows by realloc. Each
    allocator also with its own option for huge pages, as NAME+huge.

    \b
    Examples:
      mrm bench heap --workloads churn,larson --allocators mrm,mimalloc
      mrm bench heap --report heap          all of it, with plots: an hour
      mrm bench heap --json - --repeats 1 --seconds 0.1 --grow-to 64MiB

    Peers are Debian's: apt-get install libmimalloc2.0 libjemalloc2 libtcmalloc-minimal4. Those that are
    missing are named and left out. As root it lends itself the huge pages that +huge forms want,
    and takes them back, after kill -9, too; others use those that there are (`mrm fund 4GiB`).

    JSON: {"machine", "workloads": [{"workload", "threads", "allocator", "ops_per_s", "spread",
    "peak_mib"}], "missing", "notes", "stopped"}.

    Ctrl-C ends it early, with the figures of the rounds that were complete.
    """
    from mrm.tools.bench.heap.run import run

    out = terminal(json_path)
    with progress("looking for allocators") as advance:
        result = run(workloads, threads, allocators, repeats, seconds, grow_to, advance)
    finish("mrm.tools.bench.heap", result, out, json_path, report, check, stopped=result.stopped)
