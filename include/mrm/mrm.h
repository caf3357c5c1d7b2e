/* mrm.h - the memory manager under a managed runtime, from C11 and C++17.
 *
 *     #include <Python.h>
 *     #include <mrm/mrm.h>
 *
 *     if (mrm_import() < 0) return NULL;               // once, with the GIL
 *     uint32_t frame;
 *     if (mrm->take(pool, &frame) != MRM_OK)           // from then on, without
 *         puts(mrm->failure()->text);
 *
 * There is nothing to link: mrm_import() fetches a table of functions from the Python
 * module, and all that is declared below is called through it. It is declared if
 * Python.h was included before. A program without Python.h (cffi, a runtime that embeds
 * Python elsewhere) calls mrm_attach() with what Python's mrm.api_address() returns.
 *
 * Words. A FRAME is one physical huge page of a pool, a number. It has 2 MiB where base
 * pages have 4 KiB, 32 MiB with 16 KiB, 512 MiB with 64 KiB (arm64): mrm_layout tells. A
 * SLOT is a position for one in a RESERVATION. A VIEW shows the whole pool, frame i at position i; the
 * WINDOW is the view that is open for the pool's life. To RETIRE addresses is to make
 * them trap while they stay reserved. A frame number goes down, an address comes up.
 *
 * What holds for every function, unless it says otherwise:
 *   - It returns MRM_OK or a negative status, and has then changed nothing and written
 *     to no out parameter; failure() says why, in figures and in a sentence.
 *   - It may be called by any thread at any time, without the GIL and without a lock of
 *     the caller's, but not in a signal handler.
 *   - A pointer to a handle or an out parameter is not NULL, and a handle has not ended.
 *   - In a child after fork it returns MRM_FORKED; what ends a handle still ends it.
 *   - Costs were measured on two processors of a KVM guest, with another thread at work
 *     (docs/design.md). A "shootdown" interrupts every processor that the process runs on.
 *
 * Structs and functions do not change within an API version; functions are added at the
 * end of the table, and fields only to structs that begin with their size.
 */
#ifndef MRM_H
#define MRM_H

/* The machine that is compiled for, which need not be the one that compiles. */
#if !defined(__linux__)
#error "mrm needs Linux: it is made of mmap, hugetlbfs and memfd_create."
#endif
#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "mrm needs a little-endian machine: slots and frames are read as bit fields of words, lowest byte first."
#endif
#if !defined(__SIZEOF_POINTER__) || __SIZEOF_POINTER__ != 8
#error "mrm needs a machine of 64 bits: a pool reserves a TiB of addresses, and they are split into bit fields."
#endif

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MRM_API_VERSION 1u

/* ---- statuses ---------------------------------------------------------- */
enum {
    MRM_OK = 0,
    MRM_BAD_ARGUMENT = -1,      /* a size, a number or a flag that makes no sense */
    MRM_BAD_FRAME = -2,         /* a frame that is not this pool's, not held, given twice, still mapped */
    MRM_OUT_OF_FRAMES = -3,     /* not as many free frames as asked for */
    MRM_BAD_SLOT = -4,          /* a slot used twice, taken, empty, out of range */
    MRM_NO_ADDRESSES = -5,      /* view numbers, mappings (vm.max_map_count) or address space used up */
    MRM_SYSTEM_CALL = -6,       /* the kernel refused; what had been done was undone */
    MRM_CLOSED = -7,            /* the pool, view, reservation or batch is closed */
    MRM_FORKED = -8,            /* the pool belongs to the parent process */
    MRM_NO_MEMORY = -9,         /* no memory for mrm's own tables */
    MRM_INCONSISTENT = -10,     /* a call failed, and so did its undoing; the text says what is where */
    MRM_UNFUNDED = -11,         /* the frames could not be had from the kernel */
    MRM_BAD_BLOCK = -12         /* an address that is no block of the heap: freed before, or never its memory */
};

/* What went wrong last in this thread. It stays until something else does: look at it
 * after a function has failed, not to find out whether one has. */
typedef struct mrm_failure {
    int32_t status;             /* MRM_... above */
    int32_t call;               /* which system call, or 0; call_name() names it */
    int32_t error;              /* its errno, or 0 */
    int32_t reserved;
    uint64_t address;           /* what it was about, or 0 */
    uint64_t bytes;
    char text[768];             /* a sentence, with the way out */
} mrm_failure;

/* ---- physical memory ---------------------------------------------------- */
typedef struct mrm_pool mrm_pool;
typedef struct mrm_view mrm_view;
typedef struct mrm_reservation mrm_reservation;
typedef struct mrm_batch mrm_batch;
typedef struct mrm_heap mrm_heap;

/* When a frame that is given may be taken again. */
enum {
    MRM_REUSE_NOW = 0,
    MRM_REUSE_AFTER_RETIRE = 1  /* after a retire that begins later has ended */
};

/* How frames are taken from an account. */
enum {
    MRM_OVERDRAFT = 1,          /* what its balance does not cover may be lent by its overdraft fund */
    MRM_ZEROED = 2              /* they are to hold zeros; costs nothing for those that do */
};

/* Flags of mrm_account_options. */
enum {
    MRM_SHARE_CONTENTS = 1,     /* frames that come from, or go to, accounts that share too are not cleared */
    MRM_NO_OVERDRAFT = 2        /* it has no overdraft fund */
};

/* Flags of account_flush. */
enum { MRM_OVERDRAFT_ONLY = 1 };  /* only as long as the account has more than its balance */

/* Flags of pool_inflate. */
enum { MRM_NO_RETIRE = 1 };       /* leave frames out that wait for a retire, or that an old address shows */

/* The account that takers draw on who name none. */
enum { MRM_POOL_ACCOUNT = 1 };

/* What the frames are made of. */
enum {
    MRM_BACKING_HUGETLB = 1,    /* huge pages set aside (vm.nr_hugepages) */
    MRM_BACKING_THP = 2,        /* shared memory, huge pages where the kernel finds them */
    MRM_BACKING_SMALL = 3       /* shared memory of base pages */
};

/* State of a frame. READY and RELEASED are free and may be taken at once:
 * RELEASED is one whose last address still shows it until the next retire.
 * STRICT is free, but is not handed out before the next retire. INFLATED has no memory:
 * it is in the balloon, and its addresses must not be touched. */
enum {
    MRM_FRAME_READY = 0,
    MRM_FRAME_HELD = 1,
    MRM_FRAME_STRICT = 2,
    MRM_FRAME_RELEASED = 3,
    MRM_FRAME_INFLATED = 4,
    MRM_FRAME_POISONED = 5      /* in quarantine, for good: its memory is broken */
};

/* How a pool's addresses are made, for code that takes pointers apart itself:
 *   view   = (address - base) >> stride_shift     0 is the window
 *   frame  = (address >> frame_shift) & frame_mask
 *   offset =  address & (frame_size - 1)
 * base is aligned to the whole range, so view is also a bit field. */
typedef struct mrm_layout {
    uint64_t base;              /* address of view 0, the window */
    uint64_t frame_size;        /* bytes; a power of two */
    uint64_t frame_mask;        /* positions a stride has, less one */
    uint32_t frame_shift;       /* log2(frame_size) */
    uint32_t stride_shift;      /* log2(bytes from one view to the next) */
    uint32_t view_count;        /* numbers there are, the window's included; a power of two */
    uint32_t frame_count;       /* frames of the pool: 0 to frame_count - 1 */
    uint32_t backing;           /* MRM_BACKING_... */
    uint32_t pool;              /* number of the pool in this process, from 1 */
} mrm_layout;

/* Where a view shows a frame, and back. Arithmetic only; view 0 is the window. Safe in
 * signal handlers. The three that take an address apart want one from this pool's range. */
static inline void *mrm_address(const mrm_layout *layout, uint32_t view, uint32_t frame) {
    return (void *)(uintptr_t)(layout->base + ((uint64_t)view << layout->stride_shift) +
                               ((uint64_t)frame << layout->frame_shift));
}
static inline uint32_t mrm_view_of(const mrm_layout *layout, const void *address) {
    return (uint32_t)(((uint64_t)(uintptr_t)address >> layout->stride_shift) & (layout->view_count - 1));
}
static inline uint32_t mrm_frame_of(const mrm_layout *layout, const void *address) {
    return (uint32_t)(((uint64_t)(uintptr_t)address >> layout->frame_shift) & layout->frame_mask);
}
static inline uint64_t mrm_offset_of(const mrm_layout *layout, const void *address) {
    return (uint64_t)(uintptr_t)address & (layout->frame_size - 1);
}

/* Figures of a pool: the same table as Python's mrm.PoolStats. Set size = sizeof(mrm_stats)
 * before the call: a newer mrm fills no more than that. Frames are counted one by one while
 * others take and give, so that states add up to `frames` only in a pool at rest. */
typedef struct mrm_stats {
    uint32_t size;              /* bytes of this struct, as the caller knows it */
    uint32_t version;           /* MRM_API_VERSION of the filler */
    uint64_t frame_size;        /* bytes */
    uint64_t frames;            /* all, those in the balloon too */
    uint64_t ready;             /* free, nothing shows them */
    uint64_t released;          /* free, an old address still shows them */
    uint64_t strict;            /* free after the next retire */
    uint64_t held;              /* taken; of these */
    uint64_t mapped;            /* ... shown by at least one reservation */
    uint64_t pending;           /* deferred aliases that wait for a retire */
    uint64_t epoch;             /* retires so far */
    uint64_t views_open;        /* the window not counted */
    uint64_t views_retired;     /* retired, not yet closed */
    uint64_t views_opened;      /* in all */
    uint64_t reservations;      /* open */
    uint64_t batches;           /* committed */
    uint64_t system_calls;      /* made by commits and retires of this pool */
    uint64_t inflated;          /* in the balloon: without memory */
    uint64_t poisoned;          /* in quarantine: memory that is broken */
    uint64_t zeroed;            /* of the free ones, those that the stock has ready, cleared (pool_keep_zeroed) */
    uint64_t cleared;           /* in the background, so far */
    uint64_t cleared_late;      /* by takers, who had to wait for it, so far */
} mrm_stats;

/* ---- address space -------------------------------------------------------- */
enum { MRM_PROT_NONE = 0, MRM_PROT_READ = 1, MRM_PROT_READ_WRITE = 3 };

/* Flags of batch_unmap and batch_move. */
enum {
    MRM_DEFERRED = 1,           /* leave the alias until the next retire: no system call, no shootdown */
    MRM_MISSING_OK = 2          /* unmap: pass over slots that show nothing */
};

/* What a slot shows. */
enum { MRM_SLOT_EMPTY = 0, MRM_SLOT_SHOWN = 1, MRM_SLOT_DEFERRED = 2 };
typedef struct mrm_slot {
    uint32_t state;             /* MRM_SLOT_... */
    uint32_t frame;             /* unless EMPTY */
    uint32_t protection;        /* MRM_PROT_... */
    uint32_t reserved;
    uint64_t address;
} mrm_slot;

/* What a commit or a retire did. */
typedef struct mrm_report {
    uint64_t pages;             /* slots changed */
    uint64_t runs;              /* ... in so many contiguous runs */
    uint64_t system_calls;
    uint64_t shootdowns;        /* invalidations predicted, each sent to every processor the process ran on */
    uint64_t nanoseconds;
} mrm_report;

/* What an address is. */
enum { MRM_PLACE_NOTHING = 0, MRM_PLACE_WINDOW = 1, MRM_PLACE_VIEW = 2, MRM_PLACE_RESERVATION = 3 };
enum {
    MRM_STATE_UNUSED = 0,       /* the range is mrm's, but nothing is open there */
    MRM_STATE_OPEN = 1,         /* view or window: shows its frame */
    MRM_STATE_RETIRED = 2,      /* view: traps; its addresses are still reserved */
    MRM_STATE_EMPTY = 3,        /* slot: shows nothing, traps */
    MRM_STATE_SHOWN = 4,        /* slot: shows its frame, as protection allows */
    MRM_STATE_DEFERRED = 5,     /* slot: unmapped, still shows its frame until the next retire */
    MRM_STATE_FORKED = 6        /* the parent's; traps in this process */
};
typedef struct mrm_place {
    uint32_t kind;              /* MRM_PLACE_... */
    uint32_t state;             /* MRM_STATE_... */
    uint32_t pool;              /* number of the pool, from 1 */
    uint32_t number;            /* of the view, or of the reservation */
    uint32_t frame;             /* valid for WINDOW, VIEW, SHOWN and DEFERRED; else UINT32_MAX */
    uint32_t frame_state;       /* MRM_FRAME_... of that frame */
    uint32_t slot;              /* position in the view or reservation */
    uint32_t protection;        /* MRM_PROT_... in force there */
    uint64_t offset;            /* bytes into the frame */
} mrm_place;

/* ---- the table -------------------------------------------------------------- */

/* Frames on several NUMA nodes, for mrm_pool_options.numa_node. Interleave: from all nodes in turn,
 * the same for whoever takes. Local: each node has a share of the frames, a stretch of numbers, and
 * takers get those of the node that their processor is on, then of the nearest, down to the last
 * frame anywhere. On a machine of one node neither makes a difference. */
enum { MRM_NODE_INTERLEAVE = -1, MRM_NODE_LOCAL = -2 };

/* How a pool is opened. Zero everything, set size and bytes, and what else matters. */
typedef struct mrm_pool_options {
    uint32_t size;              /* sizeof(mrm_pool_options) */
    uint32_t views;             /* view numbers wanted; 0: as many as fit into a TiB, at least 63 */
    uint64_t bytes;             /* size; rounded up to whole frames */
    const char *huge;           /* "require" huge pages, "prefer" them (NULL), "off" */
    const char *path;           /* hugetlbfs file or directory to have the frames in, or NULL */
    const char *name;           /* shown in /proc/self/maps, or NULL */
    int32_t numa_node;          /* node + 1, 0 for any, or MRM_NODE_... */
    int32_t dump;               /* 1: core dumps hold the window */
    uint64_t maximum;           /* bytes that it may be deflated to; 0: its size */
} mrm_pool_options;

/* Flags of mrm_heap_options. */
enum {
    MRM_HEAP_DEBUG = 1,         /* look for callers' mistakes: slow; see docs/heap.md */
    MRM_HEAP_OVERDRAFT = 2,     /* frames may be lent to its account by the overdraft fund */
    MRM_HEAP_NO_DEBUG = 4       /* do not look, even if the environment's MRM_DEBUG says so */
};

/* mrm_heap_options.keep, for a heap that keeps nothing: 0 is the usual. */
enum { MRM_KEEP_NONE = 1 };

/* How a heap is opened. Zero everything, set size, and what else matters. */
typedef struct mrm_heap_options {
    uint32_t size;              /* sizeof(mrm_heap_options) */
    uint32_t account;           /* who pays for its frames; 0: the pool's own */
    uint64_t limit;             /* bytes of memory that it may have; 0: as many as there are */
    uint64_t keep;              /* bytes of freed blocks above 1 MiB that stay mapped, in whole frames; MRM_KEEP_NONE;
                                 * 0: an eighth of the pool, or a 32nd of the machine's memory */
    const char *name;           /* said with its number in what failure() and a heap for debugging say of it: 1 to 47
                                 * bytes, which are copied; or NULL */
    uint32_t flags;             /* MRM_HEAP_... */
    uint32_t reserved;
} mrm_heap_options;

/* Figures of a heap. Blocks and bytes are counted while other threads work: they are exact at rest. */
typedef struct mrm_heap_stats {
    uint32_t size;              /* bytes of this struct, as the caller knows it */
    uint32_t version;           /* MRM_API_VERSION of the filler */
    uint64_t memory;            /* bytes that it has: of segments in use and slots shown */
    uint64_t memory_peak;       /* the most that it had */
    uint64_t blocks;            /* small ones, up to 1 MiB each */
    uint64_t bytes;             /* of their classes */
    uint64_t segments;          /* of 2 MiB, that they lie in */
    uint64_t large_blocks;
    uint64_t large_bytes;       /* that these were asked for */
    uint64_t large_memory;      /* of their slots */
    uint64_t kept;              /* bytes of slots that are shown, but no block's */
    uint64_t addresses;         /* bytes of addresses that its blocks may lie at */
    uint64_t addresses_lacking; /* ... and that it needs besides for all memory it may have: RLIMIT_AS, RLIMIT_DATA */
} mrm_heap_stats;

/* How an account is opened. Zero everything, set size and name, and what else matters. */
typedef struct mrm_account_options {
    uint32_t size;              /* sizeof(mrm_account_options) */
    uint32_t flags;             /* MRM_SHARE_CONTENTS, MRM_NO_OVERDRAFT */
    const char *name;           /* up to 47 bytes; no two accounts of a pool have the same */
    const char *committed;      /* name of the fund of its balance; NULL: "committed" */
    const char *overdraft;      /* name of the fund that may lend it more; NULL: "overdraft" */
    uint64_t limit;             /* frames that it may have at the most; 0: all of the pool's */
} mrm_account_options;

/* Figures of an account, in frames. Low and high: since the watermarks were reset. */
typedef struct mrm_account_stats {
    uint32_t size;              /* bytes of this struct, as the caller knows it */
    uint32_t version;           /* MRM_API_VERSION of the filler */
    uint64_t balance;           /* promised to it */
    uint64_t balance_low;
    uint64_t balance_high;
    uint64_t allocated;         /* held, or strict */
    uint64_t allocated_low;
    uint64_t allocated_high;
    uint64_t limit;             /* that it may have at the most */
    uint64_t limit_low;
    uint64_t limit_high;
    uint64_t cached;            /* free, in its own lists: charged to it, too */
    uint64_t overdrawn;         /* of all these, lent by its overdraft fund */
} mrm_account_stats;

/* Figures of a fund, in frames: frames = granted + lent + available. */
typedef struct mrm_fund_stats {
    uint32_t size;              /* bytes of this struct, as the caller knows it */
    uint32_t version;           /* MRM_API_VERSION of the filler */
    uint64_t frames;            /* that it stands for */
    uint64_t granted;           /* balances of accounts */
    uint64_t lent;              /* had by accounts beyond their balances */
    uint64_t available;
} mrm_fund_stats;

/* Called when a taker finds too few frames, in the taker's thread, without a lock and
 * without the GIL; afterwards the taker is tried once more. It may give frames back, retire,
 * and move promises. What it takes itself does not call it again. */
typedef void (*mrm_shortage)(void *context, mrm_pool *pool, uint32_t account, size_t wanted);

typedef struct mrm_api {
    uint32_t version;           /* MRM_API_VERSION */
    uint32_t size;              /* bytes of this table */

    /* ---- what went wrong ---- */

    /* This thread's last failure: never NULL, the thread's own, valid for its life. */
    const mrm_failure *(*failure)(void);
    /* The manual's name of failure()->call, such as "mmap"; "none" for 0. */
    const char *(*call_name)(int call);

    /* ---- pools ---- */

    /* Fund `bytes` of frames and open a pool with one user. Every frame is backed before
     * it returns, so that no later touch can die of SIGBUS. Takes the GIL and lets it go
     * while the kernel clears pages: 0.1 to 0.25 s a GiB. Warns (Python's BackingWarning)
     * when "prefer" has to fall back; pool_layout tells what it got. MRM_UNFUNDED, with
     * the limit that stood in the way. */
    int (*pool_open)(const mrm_pool_options *options, mrm_pool **pool);
    /* The pool of a Python mrm.Pool (a PyObject *), with one user more; NULL if it is none
     * or is closed. Takes the GIL, for a moment. */
    mrm_pool *(*pool_from_object)(void *python_object);
    /* One user more, or less. Each pool_open, pool_from_object and pool_retain wants one
     * release; the last gives the frames back to the kernel. Views and reservations are
     * users by themselves, and may be closed later. Nanoseconds; the last release pays
     * for unmapping. Never fail. */
    void (*pool_retain)(mrm_pool *pool);
    void (*pool_release)(mrm_pool *pool);
    /* How its addresses are made; does not change in the pool's life. Nanoseconds. */
    int (*pool_layout)(mrm_pool *pool, mrm_layout *layout);
    /* Count everything; set stats->size before. About 1 ns a frame. */
    int (*pool_stats)(mrm_pool *pool, mrm_stats *stats);
    /* The same, and find each frame in the one place where its state says that it is.
     * For a pool at rest. MRM_INCONSISTENT, naming the frame. Some ns a frame. */
    int (*pool_audit)(mrm_pool *pool, mrm_stats *stats);

    /* ---- frames ----
     * A taken frame is held until it is given, and shown by the window and every open
     * view meanwhile. Its contents are whatever they were. */

    /* Take one, preferably one that is warm in this processor's cache. 10 ns, without a
     * lock while the processor's own stack serves. MRM_OUT_OF_FRAMES. */
    int (*take)(mrm_pool *pool, uint32_t *frame);
    /* Take n, or none: up to 63 warm ones, the rest lowest first. A few ns each. */
    int (*take_many)(mrm_pool *pool, uint32_t *frames, size_t n);
    /* Take n with numbers that go on from *first, or none: they map and move in one
     * system call. Found by summaries, in microseconds; not by looking at every frame. */
    int (*take_run)(mrm_pool *pool, uint32_t n, uint32_t *first);
    /* Give one back; `reuse` is MRM_REUSE_.... MRM_BAD_FRAME if it is none of the pool's,
     * is free already, or is shown by a slot other than by a deferred alias. 10 ns. */
    int (*give)(mrm_pool *pool, uint32_t frame, int reuse);
    /* Give n back, or none. A few ns each. */
    int (*give_many)(mrm_pool *pool, const uint32_t *frames, size_t n, int reuse);
    /* Clear held frames, through the window. 60 us each. Writing to them meanwhile is as
     * it is with memset. */
    int (*zero)(mrm_pool *pool, const uint32_t *frames, size_t n);
    /* Copy one held frame to another, in the order of memcpy. 100 us or more. */
    int (*copy_frame)(mrm_pool *pool, uint32_t target, uint32_t source);
    /* Take every deferred alias of every reservation away, and make frames ready that were
     * given before with MRM_REUSE_AFTER_RETIRE. One invalidation for each stretch of slots
     * with nothing else mapped among them. report may be NULL. If the kernel refuses
     * (MRM_SYSTEM_CALL), reservations before the one it refused are retired, the others
     * are as they were. */
    int (*pool_retire)(mrm_pool *pool, mrm_report *report);

    /* ---- views ---- */

    /* Fresh addresses for every frame: three system calls, no shootdown, no work per
     * frame. Numbers go up from 1; when they are used up, the one closed longest ago is
     * used again. MRM_NO_ADDRESSES if none is closed. */
    int (*view_open)(mrm_pool *pool, mrm_view **view);
    /* The bits that say `view` in its addresses. Never fails, nor does the next; a
     * runtime that has the layout computes both by itself. */
    uint32_t (*view_number)(const mrm_view *view);
    /* Where the view shows a frame; the frame is not checked. */
    void *(*view_address)(const mrm_view *view, uint32_t frame);
    /* From now on any access through the view traps (SIGSEGV), and its addresses stay
     * reserved. One system call and one shootdown, 20 us, whatever the pool's size.
     * MRM_CLOSED if it is retired already, also by another thread. */
    int (*view_retire)(mrm_view *view);
    /* Retire the view if it is open, let its number be used again, and end the handle:
     * no other thread may be using it. If it fails the handle has not ended. */
    int (*view_close)(mrm_view *view);

    /* ---- reservations ---- */

    /* Addresses for `slots` slots, all empty, at `at` (a multiple of a frame that nothing
     * else lies at) or, for 0, where there is room, aligned to a GiB. 8 bytes of memory
     * a slot. MRM_NO_ADDRESSES. */
    int (*reservation_open)(mrm_pool *pool, uint64_t slots, uint64_t at, mrm_reservation **reservation);
    /* Where a slot lies; the slot is not checked. Never fails. */
    void *(*reservation_address)(const mrm_reservation *reservation, uint32_t slot);
    /* What a slot shows at this moment. Nanoseconds, no lock. MRM_BAD_SLOT. */
    int (*reservation_slot)(mrm_reservation *reservation, uint32_t slot, mrm_slot *shown);
    /* As pool_retire, for this reservation only. All of it, or none. */
    int (*reservation_retire)(mrm_reservation *reservation, mrm_report *report);
    /* End every mapping, in one invalidation, give the addresses back, and end the handle:
     * no other thread may be using it, but batches of it may still be aborted. Frames that
     * it showed stay held. */
    int (*reservation_close)(mrm_reservation *reservation);

    /* ---- batches ----
     * Adding notes a change for each of n slots, nanoseconds each, reads the arrays at
     * once, and looks at no slot. The commit checks all of it, then carries all of it out.
     * In one batch a slot may be vacated once and filled once, so that pages can slide
     * along. A batch belongs to one thread at a time; commits of one reservation take
     * turns, those of different ones go side by side. */

    /* An empty batch. It keeps the reservation's tables alive, not the reservation open. */
    int (*batch_begin)(mrm_reservation *reservation, mrm_batch **batch);
    /* Empty slots[i] shows held frames[i]; protection is MRM_PROT_.... */
    int (*batch_map)(mrm_batch *batch, const uint32_t *slots, const uint32_t *frames, size_t n, int protection);
    /* slots[i] shows nothing and traps. flags: MRM_DEFERRED, MRM_MISSING_OK. */
    int (*batch_unmap)(mrm_batch *batch, const uint32_t *slots, size_t n, int flags);
    /* Empty targets[i] shows what sources[i] did, with its protection; sources[i] shows
     * nothing. flags: MRM_DEFERRED. */
    int (*batch_move)(mrm_batch *batch, const uint32_t *sources, const uint32_t *targets, size_t n, int flags);
    /* Empty targets[i] shows what sources[i] shows, too. */
    int (*batch_alias)(mrm_batch *batch, const uint32_t *sources, const uint32_t *targets, size_t n);
    /* slots[i] and others[i] change places, protection included. */
    int (*batch_swap)(mrm_batch *batch, const uint32_t *slots, const uint32_t *others, size_t n);
    /* slots[i] allows this access and no other. */
    int (*batch_protect)(mrm_batch *batch, const uint32_t *slots, size_t n, int protection);
    /* Check the batch, then carry it out; afterwards it is empty and serves again. report
     * may be NULL. Costs the plan's system calls, one or two for each run that goes on in
     * slots and frames, and a microsecond. MRM_BAD_SLOT, MRM_BAD_FRAME and MRM_NO_ADDRESSES
     * say what cannot be; MRM_SYSTEM_CALL, that the kernel refused and all was undone. After
     * any of them the batch is as it was. MRM_INCONSISTENT: the undoing failed, too; the
     * text says which slots show what, and reservation_slot agrees. */
    int (*batch_commit)(mrm_batch *batch, mrm_report *report);
    /* End the batch, and forget what was not committed. Never fails. */
    void (*batch_abort)(mrm_batch *batch);

    /* ---- signal handlers ---- */

    /* What an address is, any address. Async-signal-safe and lock-free, 50 ns: for a
     * SIGSEGV handler that has to know why it was called. True at some moment of the
     * call; a commit on another processor may change it the moment after. Never fails. */
    void (*classify)(const void *address, mrm_place *place);

    /* ---- later additions ---- */

    /* What was funded, and which ways of this kernel the pool goes and what they cost: a few
     * sentences in UTF-8 for a log, the pool's own, valid for its life. Never NULL, never
     * fails. */
    const char *(*pool_description)(const mrm_pool *pool);

    /* ---- accounts and funds ----
     * Funds divide a pool's frames into promises: "committed" begins with all of them,
     * "overdraft" and "pause_prevention" with none. An account has a balance, granted by its
     * committed fund, which nobody else can use up; beyond it, it may be lent frames by its
     * overdraft fund where a call allows it. Funds and accounts are numbers, valid for the
     * pool's life, or until account_close. Frames are given back by give and give_many: each knows
     * whose it is. */

    /* The fund of this name, made, with no frames, if there is none. Up to 64. */
    int (*fund_open)(mrm_pool *pool, const char *name, uint32_t *fund);
    /* Move n available frames' worth from one fund to another. MRM_OUT_OF_FRAMES. */
    int (*fund_transfer)(mrm_pool *pool, uint32_t from, uint32_t to, uint32_t n);
    int (*fund_stats)(mrm_pool *pool, uint32_t fund, mrm_fund_stats *stats);

    /* A new account, with a balance of 0. MRM_BAD_ARGUMENT: the name is taken, or a fund is not
     * there; MRM_NO_MEMORY: there are as many as there can be. */
    int (*account_open)(mrm_pool *pool, const mrm_account_options *options, uint32_t *account);
    /* The account of this name. MRM_BAD_ARGUMENT if there is none. */
    int (*account_find)(mrm_pool *pool, const char *name, uint32_t *account);
    /* End an account that holds nothing; its balance returns to its fund. MRM_BAD_FRAME if it
     * holds frames. No other thread may be taking from it. Some ns a frame of the pool. */
    int (*account_close)(mrm_pool *pool, uint32_t account);
    /* Raise its balance by n, from its committed fund; or lower it, by up to what it does not
     * use. MRM_OUT_OF_FRAMES. */
    int (*account_fund)(mrm_pool *pool, uint32_t account, int64_t n);
    /* Move n frames' worth of balance from one account to another, from fund to fund if these
     * differ. MRM_OUT_OF_FRAMES. */
    int (*account_transfer)(mrm_pool *pool, uint32_t from, uint32_t to, uint32_t n);
    /* Set how many frames it may have at the most; not below its balance. */
    int (*account_limit)(mrm_pool *pool, uint32_t account, uint64_t limit);
    /* When this account gives a frame back, its promise goes to the first of these whose balance
     * is below its limit. Up to 8; none: it keeps them, as at first. */
    int (*account_credits)(mrm_pool *pool, uint32_t account, const uint32_t *accounts, size_t n);
    /* Return its free frames to the pool; flags: MRM_OVERDRAFT_ONLY. flushed may be NULL. */
    int (*account_flush)(mrm_pool *pool, uint32_t account, int flags, uint32_t *flushed);
    /* Count; set stats->size before. */
    int (*account_stats)(mrm_pool *pool, uint32_t account, mrm_account_stats *stats);
    int (*account_reset_watermarks)(mrm_pool *pool, uint32_t account);
    /* As take, take_many and take_run; `how` is MRM_OVERDRAFT, MRM_ZEROED or both. A frame
     * that another account had is cleared before, unless both share contents: 60 us. */
    int (*account_take)(mrm_pool *pool, uint32_t account, int how, uint32_t *frame);
    int (*account_take_many)(mrm_pool *pool, uint32_t account, int how, uint32_t *frames, size_t n);
    int (*account_take_run)(mrm_pool *pool, uint32_t account, int how, uint32_t n, uint32_t *first);
    /* Who took this frame. MRM_BAD_FRAME if nobody has it. */
    int (*account_of)(mrm_pool *pool, uint32_t frame, uint32_t *account);
    /* Whom to call when frames are short; NULL: nobody. Set it before threads take: one that is
     * finding out at this moment may still call the one before. */
    int (*pool_on_shortage)(mrm_pool *pool, mrm_shortage call, void *context);

    /* ---- the balloon ---- */

    /* Give the memory of n free frames back to the kernel, those with the highest numbers:
     * frames that no account was promised, and that no old address shows any more: retires
     * the pool if that is what is missing, unless flags has MRM_NO_RETIRE. *done is how many
     * went, whatever is returned: MRM_OUT_OF_FRAMES if fewer were free. A system call and a
     * shootdown for each run of neighbours and each mapping that shows it. */
    int (*pool_inflate)(mrm_pool *pool, uint32_t n, int flags, uint32_t *done);
    /* Fetch memory for n frames in the balloon, those with the lowest numbers, cleared; they
     * may be taken as they arrive, a few at a time. Several threads may fetch at once.
     * *done is how many came, whatever is returned: MRM_UNFUNDED if the kernel had no more,
     * or the balloon. What it costs is the kernel's clearing. */
    int (*pool_deflate)(mrm_pool *pool, uint32_t n, uint32_t *done);

    /* ---- broken memory ----
     * A touch of memory that the hardware has given up sends SIGBUS, with si_code BUS_MCEERR_AR
     * (or _AO, before a touch) and the address, of which `classify` knows the frame. */

    /* Take a frame out of use for good: one that is free, or held and shown by no slot. It
     * is no longer charged to anybody, and never handed out. MRM_BAD_FRAME. Not in a signal handler. */
    int (*quarantine)(mrm_pool *pool, uint32_t frame);
    /* Ask the kernel which frames are broken, without a touch: the first *n are written to
     * frames[], and *n becomes how many there are, those in quarantine too.
     * MRM_SYSTEM_CALL where the kernel cannot say (5.14). */
    int (*pool_scan)(mrm_pool *pool, uint32_t *frames, size_t *n);

    /* ---- zeros, and pages that are paid for ---- */

    /* Keep n free frames cleared, by a thread that runs when a processor has nothing else to
     * do; 0, as at first: none, and no thread. They stay free, and whoever finds no others gets
     * them. Takers who want zeros get them without clearing. MRM_NO_MEMORY: there is no
     * thread to be had; MRM_SYSTEM_CALL: it may not be one that gives way to all others. */
    int (*pool_keep_zeroed)(mrm_pool *pool, uint32_t n);
    /* As batch_map, with n frames that are taken from an account now: frames[i] for slots[i]. They
     * are the batch's, which gives them back when it is aborted, until it is committed: then
     * they are the caller's to give. how: as account_take_many has it. MRM_OUT_OF_FRAMES. */
    int (*batch_map_from)(mrm_batch *batch, uint32_t account, int how, const uint32_t *slots, size_t n, int protection,
                          uint32_t *frames);

    /* ---- the heap ----
     * malloc on frames. Blocks up to 1 MiB come in size classes, no more than an eighth larger than
     * asked for, and lie in the pool's window: no system call. Larger ones are runs of slots, of any free
     * frames: a batch maps them, and they grow and move without a byte being copied. A heap without a
     * pool has private memory, which a child of fork has a copy of.
     * Every function may be called by any thread. NULL is a failure, with the text of failure(). */

    /* Open a heap on a pool, or (pool NULL) one of private memory. MRM_NO_ADDRESSES, MRM_NO_MEMORY. Where the
     * process may have few addresses a private heap takes what it gets, and addresses_lacking of its figures says
     * so: it may be full before its memory is. */
    int (*heap_open)(mrm_pool *pool, const mrm_heap_options *options, mrm_heap **heap);
    /* End this use of a heap; with the last use (mrm.Heap, Buffers and arrays of Python have their own)
     * all of its blocks end, and its frames go back. */
    int (*heap_close)(mrm_heap *heap);
    /* The handle of an mrm.Heap (a PyObject *), with a use of its own: end it with heap_close.
     * NULL, with MRM_BAD_ARGUMENT or MRM_CLOSED, if it is none or closed. Takes the GIL by itself. */
    mrm_heap *(*heap_from_object)(void *heap);
    /* A block, aligned to 16 bytes. MRM_OUT_OF_FRAMES. Some 4 ns where the thread has a page at hand. */
    void *(*heap_malloc)(mrm_heap *heap, size_t nbytes);
    /* ... of zeros; MRM_BAD_ARGUMENT if the product overflows. */
    void *(*heap_calloc)(mrm_heap *heap, size_t count, size_t size);
    /* Make a block larger or smaller, in place or by moving it; on NULL it is as it was. block may be
     * NULL. nbytes of 0 gives the smallest block. */
    void *(*heap_realloc)(mrm_heap *heap, void *block, size_t nbytes);
    /* A block at a multiple of alignment, a power of two. */
    void *(*heap_aligned)(mrm_heap *heap, size_t alignment, size_t nbytes);
    /* End a block; NULL is none. MRM_BAD_BLOCK: not one of this heap's, where that can be told: a
     * foreign address, a block above 1 MiB that was freed before. A heap with MRM_HEAP_DEBUG tells of
     * any, and says the same of a block that was written around, which it frees. */
    int (*heap_free)(mrm_heap *heap, void *block);
    /* Bytes that a block has; 0, with the failure, if it is none. */
    size_t (*heap_usable_size)(mrm_heap *heap, const void *block);
    /* 1 if an address lies in the heap's memory, else 0. Looks at no block. */
    int (*heap_owns)(mrm_heap *heap, const void *address);
    /* Give back what no block is in; bytes of it. What other threads have at hand stays theirs. */
    uint64_t (*heap_trim)(mrm_heap *heap);
    /* Count; set stats->size before. */
    int (*heap_stats)(mrm_heap *heap, mrm_heap_stats *stats);
    /* All of the above in the shape of lua_Alloc: ud is the mrm_heap. */
    void *(*heap_lua_alloc)(void *heap, void *block, size_t osize, size_t nsize);
    /* Look whether something was written around a block, or into one that was freed; *blocks is how many were
     * looked at. For a heap with MRM_HEAP_DEBUG, or opened while the environment's MRM_DEBUG is 1; others:
     * MRM_BAD_ARGUMENT. Such a heap writes what it finds to stderr, with stacks; here, when a block is freed or
     * resized, and in heap_trim and heap_close. MRM_BAD_BLOCK: there was something, which was told and mended. */
    int (*heap_check)(mrm_heap *heap, uint64_t *blocks);
} mrm_api;

#if !defined(MRM_NO_API_POINTER)
/* The table. Weak and hidden: all files of one program or shared object have the same
 * one, so that one of them imports for all, and other shared objects have their own. */
__attribute__((weak, visibility("hidden"))) const mrm_api *mrm;

/* Use the table at an address that Python's mrm.api_address() returned: 0, or -1 if the
 * installed mrm is of another API version, or older than this header. */
static inline int mrm_attach(uint64_t address) {
    const mrm_api *table = (const mrm_api *)(uintptr_t)address;
    if (!table || table->version != MRM_API_VERSION || table->size < sizeof(mrm_api)) return -1;
    mrm = table;
    return 0;
}

#if defined(PyObject_HEAD)
/* Fetch the table: 0, or -1 with an ImportError. Needs the GIL. */
static inline int mrm_import(void) {
    const mrm_api *table = (const mrm_api *)PyCapsule_Import("mrm._core._C_API", 0);
    if (!table) return -1;
    if (mrm_attach((uint64_t)(uintptr_t)table) == 0) return 0;
    PyErr_Format(PyExc_ImportError,
                 "this program was built against mrm API %u (%zu bytes); the installed mrm has %u (%u bytes): "
                 "upgrade managed-runtime-memory, or build again",
                 MRM_API_VERSION, sizeof(mrm_api), table->version, table->size);
    return -1;
}
#endif
#endif

#ifdef __cplusplus
}
#endif
#endif /* MRM_H */
