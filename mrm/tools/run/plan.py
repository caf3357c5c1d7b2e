"""The command line of ``mrm run``, and what a child is told of it.

It is read by hand, as ``python`` reads its own: options end at the script, or at ``-m`` or ``-c``, and
all that follows is the program's. What cannot be understood is left to click
(command.py), which has the words for it, and which the program must not find imported.
"""

from dataclasses import dataclass, field
from typing import Self

from mrm.errors import ArgumentError
from mrm.sizes import parse_size

#: What tells an interpreter that the program starts what it shall put in place: ``objects,pool=4294967296``.
VARIABLE = "MRM_RUN"


@dataclass(frozen=True)
class Plan:
    """What shall be run, and on what.

    Attributes
    ----------
    objects, arrays : bool
        What lies on huge pages.
    asked : bool
        Whether that was said, so that it has to be; otherwise as far as it can be.
    pool : int or None
        The most memory, in bytes, that each of them may have.
    children : bool
        Whether interpreters that the program starts do the same.
    way : {"script", "module", "code"}
        How ``what`` is to be taken.
    what : str
        A path, a module's name, or code.
    arguments : list of str
        The program's own.
    """

    objects: bool = True
    arrays: bool = True
    asked: bool = False
    pool: int | None = None
    children: bool = False
    way: str = "script"
    what: str = ""
    arguments: list[str] = field(default_factory=list)

    def to_variable(self) -> str:
        """The part of it that children need, in one word."""
        words = [word for word, wanted in (("objects", self.objects), ("arrays", self.arrays)) if wanted]
        return ",".join([*words, *([f"pool={self.pool}"] if self.pool else [])])

    @classmethod
    def from_variable(cls, text: str) -> Self:
        """Read it back; words that are not known are left out."""
        words = text.split(",")
        pool = next(
            (int(word[5:]) for word in words if word.startswith("pool=") and word[5:].isdigit()), None
        )
        return cls("objects" in words, "arrays" in words, pool=pool)


def parse(arguments: list[str]) -> Plan | None:
    """What a command line means; None where it makes no sense, or asks for help."""
    rest = list(arguments)
    flags = dict.fromkeys(("--objects", "--arrays", "--children"), False)
    pool = None
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if word in flags:
            flags[word] = True
        elif name == "--pool":
            if not equals and not rest:
                return None
            try:
                pool = parse_size(value if equals else rest.pop(0))
            except ArgumentError:
                return None
        else:
            break
    else:
        return None
    way = "script"
    if word in ("--", "-m", "-c"):
        if not rest:
            return None
        way = {"--": "script", "-m": "module", "-c": "code"}[word]
        what = rest.pop(0)
    elif word[:2] in ("-m", "-c"):
        way, what = ("module" if word[1] == "m" else "code"), word[2:]
    elif word.startswith("-") and word != "-":
        return None
    else:
        what = word
    asked = flags["--objects"] or flags["--arrays"]
    return Plan(
        flags["--objects"] or not asked,
        flags["--arrays"] or not asked,
        asked,
        pool,
        flags["--children"],
        way,
        what,
        rest,
    )
