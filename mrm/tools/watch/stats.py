"""``mrm stats``: figures of other processes' pools, for programs."""

import json
from typing import Any

import click

from mrm.tools.cli import FINE
from mrm.tools.watch.find import listed, wanted
from mrm.tools.watch.prometheus import exposition


@click.command()
@click.argument("who", metavar="[PID|NAME]", required=False)
@click.option("--json", "form", flag_value="json", default="json", help="As JSON.  [default]")
@click.option("--prometheus", "form", flag_value="prometheus", help="In Prometheus's text format.")
@click.pass_context
def command(ctx: click.Context, who: str | None, form: str) -> None:
    """Print figures of the pools of a running process, or of all that may be seen.

    \b
    Examples:
      mrm stats 4711                          one process
      mrm stats --prometheus > mrm.prom.new   all of them, for the node exporter's textfile
                                              collector: then rename it

    JSON: {"pools": [{"pool", "owner", "frames", "accounts", "funds", "figures", ...}]}. Figures
    are in frames unless their names say otherwise.

    What could not be looked into is counted on the standard error.

    \b
    Exit status: 0 done; 1 nothing to watch, or no right to; 2 usage.
    """
    if who is None:
        census = listed()
        found = census.books
        for sentence in census.omitted:
            click.echo(f"mrm: {sentence}", err=True)
    else:
        found = wanted(who)
    try:
        readings = [plain(books.read()) for books in found]
    finally:
        for books in found:
            books.close()
    if form == "prometheus":
        click.echo(exposition(readings), nl=False)
    else:
        click.echo(json.dumps({"pools": readings}, indent=2))
    ctx.exit(FINE)


def plain(books: dict[str, Any]) -> dict[str, Any]:
    """A reading with each account's changes of stacks in it, added up modulo 2**32.

    Added up like that, what comes round looks to a scraper as a counter that begins anew: it
    may miss some, and never sees too many.
    """
    changes = books.pop("changes")
    for account in books["accounts"]:
        account["stack_changes"] = sum(changes[account["number"]]) % 2**32
    return books
