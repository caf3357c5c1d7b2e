"""One line of what the doctor says."""

from dataclasses import dataclass

OK = "ok"  # as it should be
NOTE = "note"  # good to know; nothing to be done
WARNING = "warning"  # works, but less well than it could
PROBLEM = "problem"  # mrm does not do its job like this

STATUSES = (OK, NOTE, WARNING, PROBLEM)


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes
    ----------
    topic : str
        What it is about; findings of a topic are shown together.
    name : str
        What was looked at.
    value : str, int, bool or None
        What was found; None when it could not be found out.
    status : str
        One of ``STATUSES``.
    advice : str
        What to do, or what it means.
    """

    topic: str
    name: str
    value: str | int | bool | None
    status: str = OK
    advice: str = ""
