"""Sizes as people write them: ``"2GiB"`` in, ``"2 GiB"`` out, never over 2**63."""

import re

from mrm.errors import ArgumentError

_UNITS = {
    "": 1, "b": 1,
    "k": 2**10, "kib": 2**10, "kb": 10**3,
    "m": 2**20, "mib": 2**20, "mb": 10**6,
    "g": 2**30, "gib": 2**30, "gb": 10**9,
    "t": 2**40, "tib": 2**40, "tb": 10**12,
}  # fmt: skip
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB")


def parse_size(size: int | str) -> int:
    """Bytes that ``size`` stands for.

    Parameters
    ----------
    size : int or str
        Bytes, or a number with a unit: ``"2GiB"``, ``"512M"``, ``"1.5 TiB"``. A unit
        without ``i`` but with ``B`` is decimal (``"1GB"`` is 10**9); a bare ``K``,
        ``M``, ``G``, ``T`` is binary, as in the kernel's own interfaces.

    Raises
    ------
    ArgumentError
        If it is no size, is not positive, or does not fit into 63 bits.
    """
    if isinstance(size, bool) or not isinstance(size, (int, str)):
        if not hasattr(size, "__index__") or isinstance(size, bool):
            raise ArgumentError(f"a size is an int or a string such as '2GiB', not {size!r}")
        size = size.__index__()
    if isinstance(size, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", size.lower())
        if not match or match[2] not in _UNITS:
            raise ArgumentError(f"{size!r} is not a size; write '2GiB', '512MiB' or bytes as an int")
        number, unit = match[1], _UNITS[match[2]]
        nbytes = int(float(number) * unit) if "." in number else int(number) * unit
    else:
        nbytes = size
    if nbytes <= 0:
        raise ArgumentError(f"a size must be positive, not {size!r}")
    if nbytes >= 2**63:
        raise ArgumentError(f"{size!r} is over 2**63 bytes, more than any machine addresses")
    return nbytes


def parse_size_or_zero(size: int | str) -> int:
    """The same of a size that may be nothing: 0 is none, which whoever computes what to give back may find.

    Raises
    ------
    ArgumentError
        As ``parse_size``; ``False`` is no size.
    """
    return 0 if size == 0 and not isinstance(size, bool) else parse_size(size)


def format_size(nbytes: float) -> str:
    """``nbytes`` for people, in binary units: ``"1.5 GiB"``."""
    value = float(nbytes)
    unit = 0
    while abs(value) >= 1024 and unit < len(_BINARY) - 1:
        value /= 1024
        unit += 1
    return f"{value:.4g} {_BINARY[unit]}"
