"""The words of ``mrm run``: its help, and what is said of a command line that makes no sense.

A command line that does is never seen here: see plan.py.
"""

import click

from mrm.tools.fund_command import SizeType


@click.command(context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False})
@click.option("--objects", is_flag=True, help="Python's objects.  [default: objects and arrays]")
@click.option("--arrays", is_flag=True, help="NumPy's arrays.")
@click.option("--pool", type=SizeType(), metavar="SIZE", help="The most memory that each may have there.")
@click.option("--children", is_flag=True, help="Interpreters that the program starts do the same.")
@click.option("-m", "module", metavar="MODULE", help="Run a module, as python -m does.")
@click.option("-c", "code", metavar="CODE", help="Run code, as python -c does.")
@click.argument("script", required=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(**_: object) -> None:
    """Run a Python program, unchanged, with its objects and arrays on huge pages of 2 MiB.

    The program finds all as with python: its arguments, sys.path, __main__, its exit status, Ctrl-C. When
    it ends, a line on the standard error says what it used, and which share of it really lay on
    huge pages, as the kernel tells. What cannot be put there, as NumPy is not installed, is left as it
    is and said in that line, unless it was asked for by name.

    Fork keeps its meaning: a child has a snapshot, and is on huge pages too. Interpreters that
    the program starts anew, by subprocess, or multiprocessing with spawn or forkserver, are plain ones; with
    --children they do the same (the variables MRM_RUN and PYTHONPATH tell them).

    With --pool, objects beyond SIZE lie where they would without, and an array beyond it is a MemoryError.

    To give options to the interpreter itself: python -X dev -m mrm run script.py.

    \b
    Examples:
      mrm run script.py --its-own options
      mrm run --objects -m pytest -q
      mrm run --pool 4GiB train.py
      mrm run -c 'print(sum(range(10**6)))'

    \b
    Exit status: the program's own; 1 what was asked for cannot be done; 2 usage, or no such file.
    """
    raise click.UsageError("what shall be run? Name a script, -m MODULE or -c CODE")
