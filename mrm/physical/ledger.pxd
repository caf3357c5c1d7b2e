"""Where the books of a pool lie: memory that others may look at, and nobody but the owner writes."""

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint32_t, uint64_t

from mrm.system.events cimport line_t


cdef enum:
    LEDGER_LAYOUT = 1           # of head_t, and of what the books are made of
    LEDGER_NAME = 256           # bytes of a pool's name in it, with the zero at its end
    LEDGER_LINE = 128           # bytes that are written apart from others: two cache lines


# What a watcher reads first. The first three fields stay where they are in every layout, so that
# any watcher can say what it does not know.
cdef struct head_t:
    char magic[8]               # "mrmbooks", once the rest is there
    uint32_t layout             # LEDGER_LAYOUT
    char version[32]            # of mrm, as text
    uint32_t sizes[8]           # of the structs that follow, in the order of head_sizes()
    uint32_t state              # STATE_OPEN, or STATE_CLOSED when the pool has ended; atomic
    uint32_t pid                # the owner, as it numbers itself
    uint32_t pool               # the pool's number in the process
    int32_t backing             # MRM_BACKING_...
    uint32_t frames             # how many there are
    uint32_t frame_shift
    uint32_t stack_count        # stacks of an account
    uint32_t cpu_shift          # log2 of numbers of stacks from one account to the next
    uint32_t most_accounts
    uint32_t most_funds
    uint64_t figures            # where things are, in bytes from the beginning
    uint64_t funds
    uint64_t stacks
    uint64_t records
    uint64_t accounts
    uint64_t nbytes             # of all of it
    uint64_t opened             # seconds since 1970
    char name[LEDGER_NAME]      # Pool(name=), or nothing


# Counted where things happen that cost system calls anyway; all atomic.
cdef struct figures_t:
    uint64_t epoch              # retires begun so far
    uint64_t views_open
    uint64_t views_retired
    uint64_t views_opened       # in all
    uint64_t reservations
    uint64_t batches
    uint64_t system_calls       # made by commits and retires


cdef struct ledger_t:
    int fd                      # of the shared memory; -1 where the books are private, and in a child
    int call                    # what was refused, so that they are: CALL_...
    int error                   # ... and its errno
    char *memory
    size_t nbytes
    void *to_free               # private memory; NULL where it is shared
    ledger_t *next


# Memory with this head, else zeros, shared if that can be had; NULL, with the failure, when there is none.
cdef ledger_t *ledger_open(const head_t *head, const char *name, bint reserve) noexcept nogil
cdef void ledger_publish(ledger_t *ledger, const char *version, uint32_t pool, int backing) noexcept nogil
cdef void ledger_close(ledger_t *ledger) noexcept nogil
# Which pool an event is about: its number and its name.
cdef void ledger_line(const ledger_t *ledger, line_t *line) noexcept nogil
cdef void head_sizes(uint32_t *sizes) noexcept nogil


cdef inline size_t aligned(size_t nbytes) noexcept nogil:
    """So many bytes, rounded up to whole lines."""
    return (nbytes + LEDGER_LINE - 1) & ~<size_t>(LEDGER_LINE - 1)
