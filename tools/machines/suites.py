"""Which tests make sense on which machine: the files of tests/, each in one suite.

A suite is a column of the matrix. A file that says nothing about the machine it runs on
is in none, with the reason; tests/test_machines.py checks that none is forgotten.
"""

SUITES = {
    # what a pool is: frames, free lists, figures, arguments
    "frames": (
        *("test_frames", "test_pool", "test_pool_frames", "test_figures", "test_funds", "test_accounts"),
        *("test_accounts_contents", "test_accounts_c", "test_shortages"),
    ),
    # what becomes of them: cleared ahead, given back, broken, watched
    "economy": (
        *("test_zeroing", "test_balloon", "test_balloon_shares", "test_balloon_system", "test_quarantine"),
        *("test_books", "test_top", "test_events"),
    ),
    # what the kernel lacks, and what is done without it
    "features": ("test_features",),
    # addresses: views, slots, batches, and the counts of calls and shootdowns
    "space": (
        *("test_view", "test_reservation", "test_batch", "test_plan", "test_retire", "test_classify"),
        *("test_lifetimes", "test_shootdowns", "test_paying"),
    ),
    # malloc on frames and on private memory, buffers and arrays
    "heap": (
        *("test_heap", "test_heap_large", "test_heap_c", "test_heap_limits", "test_buffer"),
        *("test_heap_debug", "test_heap_debug_told", "test_heap_debug_threads"),
    ),
    # random sequences against a model
    "model": ("test_model", "test_accounts_model", "test_balloon_model", "test_heap_model"),
    # every system call failing in turn
    "failures": ("test_system_calls", "test_heap_failures"),
    # threads, children, signal handlers
    "races": ("test_threads", "test_fork", "test_heap_threads", "test_heap_fork"),
    # how a pool comes to its frames
    "funding": ("test_funding", "test_limits", "test_limits_in_use", "test_kernelpool", "test_keeper"),
    # a named file opened again, and frames in several processes
    "sharing": ("test_keep", "test_keep_balloon", "test_share", "test_attachment"),
    # events of the kernel, and what a pool makes of them
    "pressure": (
        "test_pressure",
        "test_scaling",
        "test_autoscale",
        "test_autoscale_limits",
        "test_autoscale_thread",
        "test_autoscale_pools",
    ),
    # limits of a process, a control group, a mount, a filter
    "limits": ("test_limits_process", "test_limits_seccomp", "test_limits_mounts", "test_limits_cgroups"),
    # settings of the whole machine, on its command line too
    "settings": ("test_limits_machine",),
    # seven mutators, threads that move, processors that go; several nodes
    "processors": ("test_processors",),
    "nodes": ("test_nodes", "test_nodes_spread", "test_spread", "test_near"),
    # a host that asks a guest for memory, and gives it back
    "balloon": ("test_guest_balloon",),
    # commands that people run
    "tools": ("test_doctor", "test_cli", "test_coverage"),
    # programs that know nothing of mrm
    "programs": ("test_cpython", "test_cpython_fork"),
}

#: Files that run on a developer's machine only, and why.
ELSEWHERE = {
    "test_adaptors": "is about what lies above a heap",
    "test_adaptors_counting": "is about what lies above a heap",
    "test_adaptors_log": "is about what lies above a heap",
    "test_adaptors_model": "is about what lies above a heap",
    "test_api": "is about a page of documentation",
    "test_arrays": "is about arguments",
    "test_bench": "measures, and times mean nothing on an emulated processor",
    "test_bench_balloon": "measures, and times mean nothing on an emulated processor",
    "test_bench_heap": "measures, and times mean nothing on an emulated processor",
    "test_bench_programs": "measures, and times mean nothing on an emulated processor",
    "test_bench_rounds": "measures, and times mean nothing on an emulated processor",
    "test_bench_touch": "measures, and times mean nothing on an emulated processor",
    "test_cffi": "is about what lies above a heap",
    "test_clients": "compiles programs, which takes an emulated processor minutes",
    "test_demo": "runs for seconds of real time at a time",
    "test_errors": "is about classes",
    "test_example_lua": "compares programs that run for seconds, which takes an emulated processor minutes",
    "test_example_runtime": "compiles a project, which takes an emulated processor minutes",
    "test_examples": "compiles programs, which takes an emulated processor minutes",
    "test_machines": "is about the machines themselves",
    "test_machines_kernels": "is about the machines themselves",
    "test_machines_refused": "compiles for other processors",
    "test_numpy": "needs NumPy, which those machines have not",
    "test_numpy_adaptors": "needs NumPy, which those machines have not",
    "test_numpy_contexts": "needs NumPy, which those machines have not",
    "test_numpy_processes": "needs NumPy, which those machines have not",
    "test_numpy_suite": "needs NumPy, which those machines have not",
    "test_package": "builds archives",
    "test_pages": "pretends other machines by itself",
    "test_readme": "is about a page of documentation",
    "test_replay": "is about files",
    "test_run": "compares with python itself, in hundreds of processes",
    "test_sanitize": "is about builds for sanitizers",
    "test_sizes": "is about arithmetic",
    "test_stress": "runs for seconds of real time at a time",
    "test_typing": "checks types",
    "test_wheels": "is about archives",
}


def files(names: tuple[str, ...]) -> list[str]:
    """Paths of the test files of some suites."""
    return [f"tests/{name}.py" for suite in names for name in SUITES[suite]]


def suite_of(test: str) -> str:
    """The suite that a test belongs to, by its pytest name: ``tests/test_pool.py::test_x``."""
    name = test.partition("::")[0].rpartition("/")[2].removesuffix(".py")
    return next((suite for suite, names in SUITES.items() if name in names), name)
