"""The sizes that the machine sets: pages, page tables and addresses. The one place that asks.

A page table is one base page of 8-byte entries. So one entry of the next level spans
base / 8 * base bytes, and that is the huge page that everything here is made of, the
*frame*; one table of frames spans base / 8 frames, which is the least that the kernel
shares between mappings:

| base page | where | frame | a table of frames spans |
|---|---|---|---|
| 4 KiB | x86-64, arm64, riscv64 | 2 MiB | 1 GiB |
| 16 KiB | arm64, loongarch64 | 32 MiB | 64 GiB |
| 64 KiB | arm64 | 512 MiB | 4 TiB |

The base page is asked of the C library, once. To share tables, a mapping of a pool has to
end on a whole span, and a pool has dozens of such mappings: where fewer than 128 spans
fit into the addresses that a process has, tables are not shared, and mappings are as
long as the pool. (arm64 with 64 KiB pages shares none in any case:
ARCH_WANT_HUGE_PMD_SHARE is for the smaller ones.)

How many addresses a process has depends on the processor and on the kernel's
configuration: arm64 alone knows 36, 39, 42, 47, 48 and 52 bits. It is found by trying to
map one page in the upper half of ever fewer bits. More than the kernel hands out without
being asked (47 bits on x86-64, 48 elsewhere) is never used.

Tests can pretend another machine; together with the fake (calls.pyx), which maps nothing,
layouts, plans, names and messages for it are made on any.
"""

from libc.errno cimport EEXIST
from libc.stdint cimport int64_t, uint32_t, uint64_t

from mrm import errors
from mrm.system.calls cimport CALL_MMAP, CALL_MUNMAP, call


cdef extern from "<sys/mman.h>" nogil:
    enum:
        PROT_NONE, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE, MAP_FIXED_NOREPLACE

cdef extern from "<unistd.h>" nogil:
    enum:
        _SC_PAGESIZE
    long sysconf(int name)

cdef extern from *:
    """
    /* Bits of the addresses that the kernel hands out unasked; more have to be asked for. */
    #if defined(__x86_64__)
    #define MRM_MOST_ADDRESS_BITS 47
    #else
    #define MRM_MOST_ADDRESS_BITS 48
    #endif
    /* With `ulimit -s unlimited` it places mappings from this part of them on, upwards. */
    #if defined(__aarch64__)
    #define MRM_UNMAPPED_PART 4
    #else
    #define MRM_UNMAPPED_PART 3
    #endif
    """
    enum:
        MRM_MOST_ADDRESS_BITS
        MRM_UNMAPPED_PART


cdef enum:
    FEWEST_ADDRESS_BITS = 36
    FEWEST_SPANS = 128          # of page tables, for sharing them to be worth the addresses

cdef uint64_t TIB = <uint64_t>1 << 40

cdef uint64_t base = <uint64_t>sysconf(_SC_PAGESIZE)
cdef uint32_t bits = MRM_MOST_ADDRESS_BITS


cdef uint32_t _try_addresses() noexcept nogil:
    """The bits that addresses of this process have, by trying."""
    cdef uint32_t n = MRM_MOST_ADDRESS_BITS
    cdef int64_t at, got
    while n >= FEWEST_ADDRESS_BITS:
        at = <int64_t>1 << (n - 1)
        got = call(
            CALL_MMAP, at, <int64_t>base, PROT_NONE,
            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0,
        )
        if got > 0:
            call(CALL_MUNMAP, got, <int64_t>base)   # elsewhere, before 4.17: there the flag is but a hint
        if got == at or got == -EEXIST:
            return n
        n -= 1
    return MRM_MOST_ADDRESS_BITS        # an RLIMIT_AS that is used up: nothing can be told


bits = _try_addresses()


# ---- for the core --------------------------------------------------------------

cdef uint64_t base_page() noexcept nogil:
    """Bytes of the kernel's ordinary page."""
    return base


cdef uint64_t frame_bytes() noexcept nogil:
    """Bytes of a frame: what one page table of base pages spans."""
    return base // 8 * base


cdef uint64_t table_span() noexcept nogil:
    """Bytes that one page table of frames spans."""
    return base // 8 * frame_bytes()


cdef uint64_t sharing_span() noexcept nogil:
    """The same, where mappings are made so long that the kernel can share tables; else 0."""
    return table_span() if table_span() <= (<uint64_t>1 << bits) // FEWEST_SPANS else 0


cdef uint32_t address_bits() noexcept nogil:
    """Bits that the addresses of a process have."""
    return bits


cdef uint64_t low_start() noexcept nogil:
    """Above it, and up to ``low_end``, the kernel places nothing by itself: 16 TiB, or an eighth of all."""
    return min(16 * TIB, (<uint64_t>1 << bits) // 8)


cdef uint64_t low_end() noexcept nogil:
    """42 TiB, or the third or fourth part of all from which on the kernel may place something."""
    return min(42 * TIB, (<uint64_t>1 << bits) // MRM_UNMAPPED_PART)


# ---- from Python ---------------------------------------------------------------

#: Bytes of a frame on this machine.
FRAME_SIZE = frame_bytes()


def base_page_size():
    """Bytes of the kernel's ordinary page, as an int."""
    return base


def frame_size():
    """Bytes of a frame, as an int; ``FRAME_SIZE``, unless a test pretends another machine."""
    return frame_bytes()


def page_table_span():
    """Bytes that one page table of frames spans, as an int."""
    return table_span()


def shared_table_span():
    """What a mapping has to cover whole for the kernel to share its tables; 0 where that takes too many addresses."""
    return sharing_span()


def bits_of_addresses():
    """Bits that the addresses of a process have, as an int."""
    return bits


def low_addresses():
    """Where ranges are reserved first, as (start, end)."""
    return low_start(), low_end()


def huge_pages_folder():
    """The kernel's name for its pool of pages that are frames: ``"hugepages-2048kB"``."""
    return f"hugepages-{frame_bytes() >> 10}kB"


def mount_option():
    """What a hugetlbfs mount of such pages is made with: ``"pagesize=2M"``."""
    return f"pagesize={frame_bytes() >> 20}M"


def memfd_flag():
    """What memfd_create takes for such pages (``MFD_HUGE_...``): their log2 in the upper bits."""
    return (int(frame_bytes()).bit_length() - 1) << 26


class pretend:  # noqa: N801
    """Go by the sizes of another machine, for tests, until the ``with`` ends.

    Only on the fake, which maps nothing: frames of that size could not be mapped. No pool
    may be open.

    Parameters
    ----------
    base_page_size : int, optional
        4096, 16384 or 65536.
    address_bits : int, optional
        36 to 48.
    """

    def __init__(self, base_page_size=None, address_bits=None):
        if base_page_size is not None and base_page_size not in (4096, 16384, 65536):
            raise errors.ArgumentError(f"base pages have 4, 16 or 64 KiB, not {base_page_size!r} bytes")
        if address_bits is not None and not FEWEST_ADDRESS_BITS <= address_bits <= 48:
            raise errors.ArgumentError(f"addresses have 36 to 48 bits, not {address_bits!r}")
        self._sizes = base_page_size, address_bits

    def __enter__(self):
        global base, bits
        self._before = base, bits
        base = self._sizes[0] or base
        bits = self._sizes[1] or bits

    def __exit__(self, *exception):
        global base, bits
        base, bits = self._before
