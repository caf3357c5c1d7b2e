"""What a refusal means that is not about amounts: a filter, a right, a read-only mount.

Container runtimes refuse system calls by name. Docker's filter, and those made after it,
answers EPERM to set_mempolicy, mbind and get_mempolicy unless the container has
CAP_SYS_NICE, and to move_pages and userfaultfd whatever it has; memfd_create, fallocate,
mremap and madvise pass. Stricter ones refuse memfd_create too. A kernel that lacks the
call says ENOSYS, and so do some filters.
"""

import errno

from mrm.system.pages import mount_option

_REFUSED = (errno.EPERM, errno.EACCES, errno.ENOSYS)
_POLICY = ("set_mempolicy", "get_mempolicy", "mbind", "move_pages")
_FILTER = "a filter of system calls (seccomp, as container runtimes have it) or a security module"


def explain_permission(call: str | None, error: int | None, directory: str | None = None) -> str | None:
    """Say what a refused call needs; None if the refusal is not about rights.

    Parameters
    ----------
    call : str or None
        The system call that was refused.
    error : int or None
        Its errno.
    directory : str, optional
        Where the file was to be made.
    """
    if error == errno.EROFS:
        return f"{directory} is mounted read-only: remount it (`mount -o remount,rw {directory}`), or leave path out."
    if call == "openat" and error in (errno.EPERM, errno.EACCES) and directory is not None:
        return (
            f"This user may not make files in {directory}: mount it with uid=, gid= and mode= for this user, "
            "or leave path out."
        )
    if error not in _REFUSED or call is None:
        return None
    if call in _POLICY:
        return (
            f"numa_node= is done by set_mempolicy and proven by move_pages or get_mempolicy, and {_FILTER} "
            "refuses that: give the container CAP_SYS_NICE (--cap-add SYS_NICE), or leave numa_node out and bind "
            "the whole container (--cpuset-mems)."
        )
    if call == "memfd_create":
        return (
            f"{_FILTER[0].upper()}{_FILTER[1:]} refuses memfd_create, and there is no mount to make the file on "
            "instead that this user may write to: allow the call, or mount a hugetlbfs "
            f"(`mount -t hugetlbfs -o {mount_option()} none /dev/hugepages`; a tmpfs on /dev/shm for small pages)."
        )
    return f"{_FILTER[0].upper()}{_FILTER[1:]} refuses {call}: allow it."


def is_refused(error: OSError) -> bool:
    """Whether a system call was refused for itself, not for its arguments or for want of something."""
    return error.errno in _REFUSED
