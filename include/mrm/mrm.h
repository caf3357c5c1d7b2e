/* mrm.h - the memory manager under a managed runtime, from C and C++.
 *
 *     #include <Python.h>
 *     #include <mrm/mrm.h>
 *
 *     if (mrm_import() < 0) return NULL;           // once, with the GIL
 *     uint32_t frame;
 *     if (mrm->take(pool, &frame) != MRM_OK) ...   // from then on, without
 *
 * There is nothing to link: mrm_import() fetches a table of functions from the
 * Python module, and everything below is called through it. Without Python.h
 * (define MRM_NO_PYTHON), set `mrm` yourself to the address that
 * mrm.api_address() returns; cffi programs do that.
 *
 * Words: a FRAME is one physical 2 MiB page of a pool, a number; a SLOT is a
 * 2 MiB-aligned virtual position in a reservation; a VIEW shows the whole pool,
 * frame i at position i. A frame number goes down, an address comes up.
 *
 * Every function returns MRM_OK or a negative status and then has changed
 * nothing, unless it says otherwise; mrm->failure() tells this thread why, in
 * figures and in a sentence. Functions need no GIL and no lock of the caller's,
 * unless they say so.
 */
#ifndef MRM_H
#define MRM_H

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
    MRM_UNFUNDED = -11          /* the frames could not be had from the kernel */
};

/* What went wrong last in this thread; valid until the next failure in it. */
typedef struct mrm_failure {
    int32_t status;             /* MRM_... above */
    int32_t call;               /* which system call, or 0; mrm->call_name() names it */
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

enum { MRM_REUSE_NOW = 0, MRM_REUSE_AFTER_RETIRE = 1 };

/* What the frames are made of. */
enum { MRM_BACKING_HUGETLB = 1, MRM_BACKING_THP = 2, MRM_BACKING_SMALL = 3 };

/* State of a frame. READY and RELEASED are free and may be taken at once:
 * RELEASED is one whose last address still shows it until the next retire.
 * STRICT is free, but is not handed out before the next retire. */
enum { MRM_FRAME_READY = 0, MRM_FRAME_HELD = 1, MRM_FRAME_STRICT = 2, MRM_FRAME_RELEASED = 3 };

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
    uint32_t frame_count;       /* frames of the pool */
} mrm_layout;

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

/* Figures of a pool. Set size = sizeof(mrm_stats) before the call: a newer mrm
 * fills no more than that. One table with mrm.PoolStats of Python. */
typedef struct mrm_stats {
    uint32_t size;              /* bytes of this struct, as the caller knows it */
    uint32_t version;           /* MRM_API_VERSION of the filler */
    uint64_t frame_size;        /* bytes */
    uint64_t frames;            /* funded */
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
} mrm_stats;

/* ---- address space -------------------------------------------------------- */
enum { MRM_PROT_NONE = 0, MRM_PROT_READ = 1, MRM_PROT_READ_WRITE = 3 };
enum { MRM_DEFERRED = 1, MRM_MISSING_OK = 2 };

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

/* How a pool is opened from C. Zero everything, set what matters. */
typedef struct mrm_pool_options {
    uint64_t bytes;             /* size; a multiple of 2 MiB */
    const char *huge;           /* "prefer" (NULL), "require", "off" */
    const char *path;           /* hugetlbfs file or directory, or NULL */
    const char *name;           /* shown in /proc/self/maps, or NULL */
    int numa_node;              /* node + 1, or 0 for any */
    int dump;                   /* 1: core dumps hold the window */
    uint32_t views;             /* view numbers wanted; 0 for the default */
} mrm_pool_options;

typedef struct mrm_api {
    uint32_t version;           /* MRM_API_VERSION */
    uint32_t size;              /* bytes of this table; entries are only ever added at its end */

    /* This thread's last failure. */
    const mrm_failure *(*failure)(void);
    const char *(*call_name)(int call);

    /* Pools. open takes the GIL while it funds the frames, and may take seconds;
     * from_object needs the GIL and gives a user of its own. Each open, from_object
     * and retain wants one release; views, reservations and batches keep the pool
     * alive by themselves. */
    int (*pool_open)(const mrm_pool_options *options, mrm_pool **pool);
    mrm_pool *(*pool_from_object)(void *python_object);
    void (*pool_retain)(mrm_pool *pool);
    void (*pool_release)(mrm_pool *pool);
    int (*pool_layout)(mrm_pool *pool, mrm_layout *layout);
    int (*pool_stats)(mrm_pool *pool, mrm_stats *stats);
    int (*pool_audit)(mrm_pool *pool, mrm_stats *stats);    /* on a pool at rest */

    /* Frames. A held frame comes back only by give. take and give of one frame cost
     * nanoseconds and take no lock while the processor's own stack serves. */
    int (*take)(mrm_pool *pool, uint32_t *frame);
    int (*take_many)(mrm_pool *pool, uint32_t *frames, size_t n);   /* all or none */
    int (*take_run)(mrm_pool *pool, uint32_t n, uint32_t *first);   /* first .. first + n - 1 */
    int (*give)(mrm_pool *pool, uint32_t frame, int reuse);         /* MRM_REUSE_... */
    int (*give_many)(mrm_pool *pool, const uint32_t *frames, size_t n, int reuse); /* all or none */
    int (*zero)(mrm_pool *pool, const uint32_t *frames, size_t n);
    int (*copy_frame)(mrm_pool *pool, uint32_t target, uint32_t source);
    /* Take every deferred alias of every reservation away; STRICT frames become ready. */
    int (*pool_retire)(mrm_pool *pool, mrm_report *report);

    /* Views: one mapping, no work per frame. Retiring costs one shootdown. */
    int (*view_open)(mrm_pool *pool, mrm_view **view);
    uint32_t (*view_number)(const mrm_view *view);
    void *(*view_address)(const mrm_view *view, uint32_t frame);
    int (*view_retire)(mrm_view *view);
    int (*view_close)(mrm_view *view);                      /* ends the handle */

    /* Reservations: at is an address to lie at, or 0. close ends the handle. */
    int (*reservation_open)(mrm_pool *pool, uint64_t slots, uint64_t at, mrm_reservation **reservation);
    void *(*reservation_address)(const mrm_reservation *reservation, uint32_t slot);
    int (*reservation_slot)(mrm_reservation *reservation, uint32_t slot, mrm_slot *shown);
    int (*reservation_retire)(mrm_reservation *reservation, mrm_report *report);
    int (*reservation_close)(mrm_reservation *reservation);

    /* Batches: adding notes, commit checks and carries all of it out or nothing.
     * After a commit the batch is empty and serves again; abort ends it. A batch
     * belongs to one thread at a time. report may be NULL. */
    int (*batch_begin)(mrm_reservation *reservation, mrm_batch **batch);
    int (*batch_map)(mrm_batch *batch, const uint32_t *slots, const uint32_t *frames, size_t n, int protection);
    int (*batch_unmap)(mrm_batch *batch, const uint32_t *slots, size_t n, int flags);
    int (*batch_move)(mrm_batch *batch, const uint32_t *sources, const uint32_t *targets, size_t n, int flags);
    int (*batch_alias)(mrm_batch *batch, const uint32_t *sources, const uint32_t *targets, size_t n);
    int (*batch_swap)(mrm_batch *batch, const uint32_t *slots, const uint32_t *others, size_t n);
    int (*batch_protect)(mrm_batch *batch, const uint32_t *slots, size_t n, int protection);
    int (*batch_commit)(mrm_batch *batch, mrm_report *report);
    void (*batch_abort)(mrm_batch *batch);

    /* What an address is. Async-signal-safe and lock-free: for a SIGSEGV handler. */
    void (*classify)(const void *address, mrm_place *place);
} mrm_api;

#if !defined(MRM_NO_API_POINTER)
/* One per translation unit; mrm_import() sets it. */
static const mrm_api *mrm __attribute__((unused));
#endif

#if !defined(MRM_NO_PYTHON) && !defined(MRM_NO_API_POINTER) && defined(PyObject_HEAD)
/* Fetch the table: 0, or -1 with a Python exception. Needs the GIL. */
static inline int mrm_import(void) {
    const mrm_api *table = (const mrm_api *)PyCapsule_Import("mrm._core._C_API", 0);
    if (!table) return -1;
    if (table->version != MRM_API_VERSION || table->size < sizeof(mrm_api)) {
        PyErr_Format(PyExc_ImportError,
                     "this program was built against mrm API %u (%zu bytes); the installed mrm has %u (%u bytes): "
                     "upgrade managed-runtime-memory, or build again",
                     MRM_API_VERSION, sizeof(mrm_api), table->version, table->size);
        return -1;
    }
    mrm = table;
    return 0;
}
#endif

#ifdef __cplusplus
}
#endif
#endif /* MRM_H */
