"""``mrm replay``: runs a log of calls again, to find a leak or to size a pool."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

import mrm
from mrm.tools.cli import FINE, FOUND
from mrm.tools.fund_command import SizeType
from mrm.tools.replay.calls import Calls
from mrm.tools.replay.replay import Replayed, examine, replay, sufficient
from mrm.tools.replay.report import figures, tell


@click.command()
@click.argument("log", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--heap",
    "kind",
    type=click.Choice(["private", "pool", "glibc"]),
    default="private",
    show_default=True,
    help="What it runs on.",
)
@click.option(
    "--size", type=SizeType(), help="Bytes of the pool, or that the private heap may have.  [default: enough]"
)
@click.option(
    "--most", type=click.IntRange(0), default=10, show_default=True, help="Leaks and mismatches to name."
)
@click.option("--json", "as_json", is_flag=True, help="Print figures for programs.")
@click.pass_context
def command(ctx: click.Context, log: Path, kind: str, size: int | None, most: int, as_json: bool) -> None:
    """Run a LOG of calls again, which mrm.adaptors.Log wrote: find leaks, size a pool, compare heaps.

    Calls are made in the order of the log's lines, by one thread, and blocks are not written to. The pool
    that suffices is found by trying.

    \b
    Examples:
      mrm replay calls.csv                          what was leaked, what pool suffices
      mrm replay calls.csv --heap pool --size 64MiB   would that do?
      mrm replay calls.csv --heap glibc               how long does malloc take?

    \b
    JSON: {"log": {"calls", "peak_bytes", "leaks": [{"nbytes", "blocks", "where"}], "mismatches", ...},
           "heap": {"kind", "size", "memory_peak"}, "replay": {"calls", "failed", "seconds", ...}, "pool_bytes"}

    \b
    Exit status: 0 every block was freed once, and got its memory; 1 not so; 2 usage; 3 the pool
    cannot be had here.
    """
    if size is not None and kind == "glibc":
        raise click.UsageError("--size is of a pool or a private heap: malloc has no limit")
    calls = Calls(log)
    found = examine(calls, most)
    pool_bytes = sufficient(calls)
    replayed, heap = _run(calls, kind, size, pool_bytes)
    if as_json:
        click.echo(json.dumps(figures(found, replayed, heap, pool_bytes, most), indent=2))
    else:
        click.echo("\n".join(tell(found, replayed, heap, pool_bytes, most)))
    ctx.exit(FINE if found.sound and not replayed.failed else FOUND)


def _run(calls: Calls, kind: str, size: int | None, pool_bytes: int) -> tuple[Replayed, dict[str, Any]]:
    """Run it, and say on what."""
    if kind == "glibc":
        return replay(calls), {"kind": kind, "size": None, "memory_peak": None}
    if kind == "private":
        with mrm.Heap(limit=size, name="replay") as heap:
            return _on(calls, heap, kind, size)
    size = size or max(pool_bytes, mrm.FRAME_SIZE)
    with mrm.Pool(size, name="replay") as pool, mrm.Heap(pool) as heap:
        return _on(calls, heap, kind, size)


def _on(calls: Calls, heap: mrm.Heap, kind: str, size: int | None) -> tuple[Replayed, dict[str, Any]]:
    replayed = replay(calls, heap)
    return replayed, {"kind": kind, "size": size, "memory_peak": heap.stats().memory_peak}
