"""The command ``mrm``.

Importing this needs neither click nor rich, which only the extra ``cli`` installs;
without them ``mrm`` says what to install. What the commands are called and where they
live is in ``commands``.
"""

import sys
import warnings
from typing import NoReturn

from mrm.errors import Error, FundingError

# What every command ends with.
FINE, FOUND, USAGE, IMPOSSIBLE = 0, 1, 2, 3
_INTERRUPTED = 130


def main() -> NoReturn:
    """Run the command line of this process, and end it."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line.

    Parameters
    ----------
    arguments : list of str
        What follows the program's name.

    Returns
    -------
    int
        0 all is well; 1 something was found, or failed; 2 the command line makes no
        sense; 3 this machine does not allow it; 130 Ctrl-C.
    """
    if arguments[:1] == ["run"]:
        # A program must find nothing imported that is not its own, click's versions among it, and
        # what it raises is between it and the interpreter.
        from mrm.tools.run.plan import parse

        plan = parse(arguments[1:])
        if plan is not None:
            from mrm.tools.run.launch import launch

            return launch(plan)
    try:
        import click

        from mrm.tools.commands import group
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich"):
            raise
        return _say(
            "the command line needs click and rich: pip install 'managed-runtime-memory[cli]'", IMPOSSIBLE
        )
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            result = group.main(arguments, prog_name="mrm", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _say("stopped", _INTERRUPTED)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package == "mrm":
            return _say(f"this installation is incomplete: {error}; build or install it again", IMPOSSIBLE)
        extra = "cli" if package in ("click", "rich") else "cli,bench"
        return _say(f"{error}: pip install 'managed-runtime-memory[{extra}]'", IMPOSSIBLE)
    except FundingError as error:
        return _say(str(error), IMPOSSIBLE)
    except Error as error:
        return _say(str(error), FOUND)
    return result if isinstance(result, int) else FINE


def _say(sentence: str, status: int) -> int:
    print(f"mrm: {sentence}", file=sys.stderr)
    return status


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """A warning as a line of its own: whose source line it was is of no use here."""
    print(f"mrm: {message}", file=sys.stderr)


if __name__ == "__main__":
    main()
