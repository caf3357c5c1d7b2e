"""Pools of other processes: found by their books, among the descriptors in /proc.

A pool's books are a memfd called ``mrm-books:NAME`` (mrm/physical/ledger.pyx). Whose it is
stands in its head, as the number that the owner has for itself, so that a process that
merely inherited the descriptor, by a fork without handlers, is not taken for the owner.

The folder /proc/PID is held open while a pool is watched: it goes on naming this process,
and no later one that gets the same number.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from mrm._books import UnknownBooks, read_books, read_head
from mrm.errors import Error

_PREFIX = "/memfd:mrm-books:"


class NothingToWatch(Error):
    """There is no such pool, or this user may not see it."""


@dataclass
class Books:
    """The books of one pool, open for reading; a context manager.

    Attributes
    ----------
    pid : int
        The owner, as we number it.
    command : str
        What it is called.
    head : dict
        What the pool is.
    """

    pid: int
    command: str
    fd: int
    folder: int  # its /proc/PID
    head: dict[str, Any] = field(default_factory=dict)

    def read(self) -> dict[str, Any]:
        """Everything that they say now; with ``owner``, the process."""
        found = read_books(self.fd)
        found["owner"] = {"pid": self.pid, "command": self.command}
        return found

    @property
    def alive(self) -> bool:
        """Whether the owner still runs."""
        return _state(self.folder) not in ("Z", "X", None)

    @property
    def ended(self) -> str:
        """Why there is nothing more to be seen; an empty string while there is."""
        if not self.alive:
            return f"process {self.pid} has ended"
        if not read_head(self.fd)["open"]:
            return f"process {self.pid} has closed the pool"
        return ""

    @property
    def label(self) -> str:
        """The pool as people call it."""
        name = f" {self.head['name']!r}" if self.head["name"] else ""
        return f"pool {self.head['number']}{name} of process {self.pid} ({self.command})"

    def close(self) -> None:
        """Let go of it; the owner notices as little as of the rest."""
        os.close(self.fd)
        os.close(self.folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass
class Census:
    """All pools that this user may see, and how much was not to be seen.

    Attributes
    ----------
    books : list of Books
        The pools.
    hidden : int
        Processes that this user may not look into.
    unknown : int
        Pools whose books cannot be read: of another version's layout, or still opening.
    """

    books: list[Books]
    hidden: int
    unknown: int

    @property
    def omitted(self) -> list[str]:
        """What is not among the books, a sentence each."""
        said = []
        if self.hidden:
            said.append(f"Processes that may not be looked into: {self.hidden}.")
        if self.unknown:
            said.append(
                f"Pools whose books this mrm cannot read (of another version, or still opening): {self.unknown}."
            )
        return said

    def close(self) -> None:
        """Let go of them all."""
        for books in self.books:
            books.close()


def listed() -> Census:
    """Look into every process."""
    found: list[Books] = []
    unknown: set[int] = set()
    hidden = 0
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdecimal()):
        try:
            found += owned(pid, unknown)
        except PermissionError:
            hidden += 1
        except OSError:
            continue  # it ended while we looked
    return Census(found, hidden, len(unknown))


def wanted(who: str) -> list[Books]:
    """The pools that a command line means: of a process by its number, or by their name.

    Raises
    ------
    NothingToWatch
        If there is none, with the reason as far as it can be told.
    """
    if who.isdecimal():
        return _of_process(int(who))
    census = listed()
    found = [books for books in census.books if books.head["name"] == who]
    for books in census.books:
        if books not in found:
            books.close()
    if found:
        return found
    said = f"no pool that this user may see is called {who!r}: `mrm top` lists them"
    raise NothingToWatch(". ".join([said, *census.omitted]).removesuffix("."))


def _of_process(pid: int) -> list[Books]:
    try:
        found = owned(pid)
    except PermissionError as error:
        raise NothingToWatch(
            f"process {pid} may not be looked into: {error.strerror}. The kernel allows it to the same user with at "
            "least the process's capabilities, if it is dumpable; and to root",
            call="openat",
            error=error.errno,
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ESRCH):
            raise
        raise NothingToWatch(f"there is no process {pid}", call="openat", error=error.errno) from None
    if found:
        return found
    if _has_mrm(pid):
        raise NothingToWatch(
            f"process {pid} has mrm loaded, and no pool that can be watched: none is open, or their books could not be "
            "shared (memfd_create refused, no descriptor left); the pool.description in the process says which"
        )
    raise NothingToWatch(f"process {pid} has no pool: mrm is not loaded in it")


def owned(pid: int, unknown: set[int] | None = None) -> list[Books]:
    """The pools of one process, by number.

    Parameters
    ----------
    pid : int
        Its number.
    unknown : set of int, optional
        What takes the number of each file of books that this version cannot read; without it, they raise.

    Raises
    ------
    OSError
        If there is no such process, or it may not be looked into.
    Error
        If its books are of another version's layout.
    """
    found: list[Books] = []
    folder = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    seen = set()  # a process that watches itself has each of its books twice
    try:
        for fd in _descriptors(folder):
            kept = False
            try:
                if (number := os.fstat(fd).st_ino) in seen:
                    continue
                seen.add(number)
                head = read_head(fd)
                if head["open"] and head["pid"] == _own_number(folder):
                    found.append(Books(pid, _command(folder), fd, os.dup(folder), head))
                    kept = True
            except UnknownBooks:
                if unknown is None:
                    raise
                unknown.add(number)
            finally:
                if not kept:
                    os.close(fd)
    except BaseException:
        for books in found:
            books.close()
        raise
    finally:
        os.close(folder)
    return sorted(found, key=lambda books: int(books.head["number"]))


def _descriptors(folder: int) -> Iterator[int]:
    """What a process has open and is called as books are, opened for reading."""
    listing = os.open("fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    try:
        for name in os.listdir(listing):
            fd = -1
            with contextlib.suppress(FileNotFoundError):  # closed while we looked
                if os.readlink(name, dir_fd=listing).startswith(_PREFIX):
                    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=listing)
            if fd >= 0:
                yield fd
    finally:
        os.close(listing)


def _read(folder: int, name: str) -> str:
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    with open(fd, errors="replace") as file:
        return file.read()


def _state(folder: int) -> str | None:
    """The letter of a process's state; None when it is no more."""
    try:
        return _read(folder, "stat").rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return None


def _own_number(folder: int) -> int:
    """The process's number as it knows it: in a container another one than ours."""
    for line in _read(folder, "status").splitlines():
        if line.startswith("NSpid:"):
            return int(line.split()[-1])
    return -1


def _command(folder: int) -> str:
    return _read(folder, "comm").strip()


def _has_mrm(pid: int) -> bool:
    try:
        return "/mrm/_core" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False
