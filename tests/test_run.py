"""``mrm run``: a program finds all as with ``python``, and a line in the end says what it used."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import zipfile

import pytest
from helpers import environment, python, wait_until, waits
from programs import needs_arenas

from mrm.tools import cli
from mrm.tools.run.plan import Plan, parse

OURS = re.compile(r"^mrm: .*\n", re.MULTILINE)


class Side:
    """What a program did: by ``python``, or by ``mrm run``."""

    def __init__(self, done):
        self.code = done.returncode
        self.out = done.stdout
        self.account = OURS.findall(done.stderr)
        self.err = re.sub("0x[0-9a-f]{6,}", "0x", OURS.sub("", done.stderr))

    __hash__ = None

    def __eq__(self, other):
        return (self.code, self.out, self.err) == (other.code, other.out, other.err)

    def __repr__(self):
        return f"exit code {self.code}\n--- out\n{self.out}\n--- err\n{self.err}\n--- account\n{self.account}"


def by(launcher, arguments, folder, *, options=(), stdin=None, **variables):
    """Run a command line in a folder; ``options`` are the interpreter's."""
    return Side(python(*options, *launcher, *arguments, cwd=folder, stdin=stdin, **variables))


RUN = ("-m", "mrm", "run")


@pytest.fixture
def both(tmp_path):
    """``both(arguments)``: the two sides of a command line, in a folder with ``script.py``."""

    def compare(*arguments, **options):
        plain = by((), arguments, tmp_path, **options)
        ours = by(RUN, arguments, tmp_path, **options)
        assert ours == plain
        return ours

    compare.folder = tmp_path
    return compare


def write(folder, code, name="script.py"):
    path = folder / name
    path.write_text(textwrap.dedent(code))
    return path


LOOK = """
import sys
main = sys.modules["__main__"]
assert main.__dict__ is globals()
spec = __spec__.name if __spec__ else None
print(__name__, globals().get("__file__"), sys.argv, sys.path[0], spec, __package__, type(__loader__), __doc__)
print(sorted(name for name in globals() if name not in ("main", "spec")))
"""


# ---- as python does ----------------------------------------------------------------------


def test_a_script_finds_itself(both):
    write(both.folder, '"""What it is."""\n' + LOOK)
    (both.folder / "other").mkdir()
    write(both.folder / "other", LOOK, "inner.py")
    (both.folder / "link.py").symlink_to("other/inner.py")
    both("script.py", "-m", "--pool", "x y")
    both(str(both.folder / "script.py"))
    both("other/inner.py", "a")
    both("other/../script.py")
    both("link.py")


def test_a_module_a_package_and_code(both):
    write(both.folder, LOOK, "module.py")
    package = both.folder / "package"
    package.mkdir()
    write(package, "print('package')", "__init__.py")
    write(package, LOOK, "__main__.py")
    both("-m", "module", "-c", "b")
    both("-mmodule")
    both("-m", "package", "x")
    both("-m", "package.nothing")
    both("-m", "json.tool", stdin='{"a": [1]}')
    both("-c", LOOK, "-m", "x")
    both("-c" + LOOK)
    both("-", "x", stdin=LOOK)


def test_a_folder_an_archive_and_compiled_code(both):
    folder = both.folder / "app"
    folder.mkdir()
    write(folder, LOOK + "import beside; print(beside.__file__)", "__main__.py")
    write(folder, "", "beside.py")
    both("app", "x")
    with zipfile.ZipFile(both.folder / "app.pyz", "w") as archive:
        for name in ("__main__.py", "beside.py"):
            archive.write(folder / name, name)
    both("app.pyz", "x")
    import py_compile

    py_compile.compile(str(write(both.folder, LOOK)), cfile=str(both.folder / "script.pyc"))
    both("script.pyc")


ENDS = {
    "to the end": "print('all')",
    "exit 3": "import sys; sys.exit(3)",
    "exit with words": "import sys; sys.exit('no more')",
    "exit None": "import sys; sys.exit()",
    "raise SystemExit": "raise SystemExit(7)",
    "os._exit": "import os; print('x', flush=True); os._exit(9)",
    "an error": "def f():\n    return 1 / 0\n\nf()",
    "an error with a cause": "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise ValueError('no') from e",
    "a syntax error": "x = = 1",
    "another encoding": "# coding: latin-1\nprint(ascii('\u00e4'))",
    "an import error": "import there_is_no_such_module",
    "KeyboardInterrupt": "raise KeyboardInterrupt",
    "a broken pipe": "raise BrokenPipeError(32, 'Broken pipe')",
    "EOFError": "raise EOFError",
    "a group": "raise ExceptionGroup('two', [ValueError(1), KeyError(2)])",
    "a hook for errors": "import sys; sys.excepthook = lambda *a: print('hook', a[0], a[2].tb_lineno); 1 / 0",
    "handlers of the end": """
        import atexit
        atexit.register(print, "first in, last out")
        atexit.register(lambda: print(__name__, __file__[-9:]))
        class C:
            def __del__(self):
                print("deleted")
        kept = C()
    """,
    "threads that go on": """
        import threading, time
        word = "global"
        def late():
            time.sleep(0.3)
            print("late", word, threading.main_thread().is_alive())
        threading.Thread(target=late).start()
        print([t.name for t in threading.enumerate()])
    """,
    "pickle by __main__": """
        import pickle, copy
        class Thing:
            def __eq__(self, other):
                return type(other) is Thing
        assert pickle.loads(pickle.dumps(Thing())) == Thing() == copy.deepcopy(Thing())
        import __main__
        print(__main__.Thing is Thing)
    """,
    "signal": "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    "warnings": "import warnings; warnings.warn('old', DeprecationWarning); warnings.warn('careful')",
    "futures": "from __future__ import annotations\ndef f(x: nothing): pass\nprint(f.__annotations__)",
    "recursion": "import sys\ndef f():\n    f()\ntry:\n    f()\nexcept RecursionError:\n    print('deep')",
    "what is imported": """
        import sys
        print(sorted(name for name in sys.modules if name.partition('.')[0] in ("click", "rich", "numpy", "pytest")))
    """,
}


@pytest.mark.parametrize("name", ENDS)
def test_it_ends_as_with_python(both, name):
    write(both.folder, ENDS[name])
    ours = both("script.py")
    assert len(ours.account) == (0 if name in ("os._exit", "signal") else 1), ours


@pytest.mark.parametrize("way", ["script", "code", "module"])
def test_a_traceback_has_the_programs_frames_only(both, way):
    write(both.folder, "def f():\n    raise LookupError('here')\n\nf()\n", "broken.py")
    arguments = {"script": ["broken.py"], "module": ["-m", "broken"], "code": ["-c", "import broken"]}[way]
    ours = both(*arguments)
    assert ours.code == 1 and "mrm" not in ours.err


def test_options_of_the_interpreter(both):
    write(both.folder, "import sys; print(sys.flags, sys.warnoptions, sys.path[0]); assert 0", "flags.py")
    both("flags.py", options=["-O", "-W", "ignore"])
    both("flags.py", options=["-X", "dev"])
    both("flags.py", PYTHONSAFEPATH="1")


def test_no_such_file(both):
    ours = by(RUN, ["nothing.py"], both.folder)
    plain = by((), ["nothing.py"], both.folder)
    assert ours.code == plain.code == 2
    assert ours.account == [
        f"mrm: can't open file '{both.folder}/nothing.py': [Errno 2] No such file or directory\n"
    ]


def test_ctrl_c(tmp_path):
    write(
        tmp_path,
        """
        import signal, time
        signal.signal(signal.SIGINT, signal.default_int_handler)    # whatever the tests were started with
        print("there", flush=True)
        time.sleep(60)
        """,
    )
    endings = []
    for launcher in ((), RUN):
        with subprocess.Popen(
            [sys.executable, *launcher, "script.py"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        ) as process:
            assert process.stdout.readline() == "there\n"
            wait_until(lambda: waits(process.pid))
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
            endings.append((process.returncode, OURS.sub("", said)))
    assert endings[0] == endings[1]
    assert endings[0][0] == -signal.SIGINT


# ---- what it is for ------------------------------------------------------------------------


@needs_arenas
@pytest.mark.parametrize("kept", [True, False])
def test_the_account(tmp_path, kept):
    write(tmp_path, f"made = [(i, str(i)) for i in range(300_000)]\nif not {kept}: del made")
    ours = by(RUN, ["--objects", "script.py"], tmp_path)
    told = re.fullmatch(
        r"mrm: peak ([\d.]+) MiB, objects ([\d.]+) MiB at most, of ([\d.]+) MiB when it had most ([\d.]+)% lay on "
        r"pages of \d+ MiB(; .*)?\n",
        ours.account[0],
    )
    assert told, ours
    peak, objects, resident, share = map(float, told.groups()[:4])
    assert 30 <= objects <= resident + 20 and resident <= peak * 1.1
    if not told[5]:
        assert share > 40


def test_what_cannot_be_done_is_said_and_refused_when_asked_for(tmp_path):
    write(tmp_path, "print('ran')")
    ours = by(RUN, ["script.py"], tmp_path, PYTHONMALLOC="malloc")
    assert ours.out == "ran\n" and "no arenas" in ours.account[0]
    ours = by(RUN, ["--objects", "script.py"], tmp_path, PYTHONMALLOC="malloc")
    assert (ours.code, ours.out) == (1, "") and "no arenas" in ours.account[0]


@needs_arenas
def test_a_limit_and_what_is_beyond_it(tmp_path):
    write(
        tmp_path,
        """
        import mrm.cpython
        made = [(i, str(i)) for i in range(300_000)]
        stats = mrm.cpython.installed().stats()
        print(stats.small_memory <= 8 << 20, stats.large_memory <= 8 << 20, stats.elsewhere > 0, made[777])
        """,
    )
    ours = by(RUN, ["--pool=8MiB", "--objects", "script.py"], tmp_path)
    assert ours.out == "True True True (777, '777')\n", ours


@needs_arenas
def test_tracemalloc_from_the_start(tmp_path):
    write(
        tmp_path,
        """
        import tracemalloc, mrm.cpython
        assert tracemalloc.is_tracing() and tracemalloc.get_traceback_limit() == 5
        block = bytearray(4 << 20)
        assert 4 << 20 <= tracemalloc.get_traced_memory()[0] < 6 << 20
        assert mrm.cpython.installed().stats().large_memory >= 4 << 20
        tracemalloc.stop()
        del block
        print("ran")
        """,
    )
    assert by(RUN, ["--objects", "script.py"], tmp_path, options=["-X", "tracemalloc=5"]).out == "ran\n"


def test_numpy_is_imported_by_whoever_wants_it(tmp_path):
    pytest.importorskip("numpy")
    write(
        tmp_path,
        """
        import sys
        assert "numpy" not in sys.modules
        import numpy, importlib.util
        assert numpy.__loader__ is numpy.__spec__.loader and "mrm" not in type(numpy.__loader__).__module__
        assert numpy.arange(10).sum() == 45
        assert not any("mrm" in type(finder).__module__ for finder in sys.meta_path)
        print("ran")
        """,
    )
    assert by(RUN, ["script.py"], tmp_path).out == "ran\n"


def test_a_child_writes_no_account(tmp_path):
    write(
        tmp_path,
        """
        import os, sys
        if os.fork() == 0:
            sys.exit(3)
        print(os.waitstatus_to_exitcode(os.wait()[1]))
        """,
    )
    ours = by(RUN, ["script.py"], tmp_path)
    assert (ours.out, len(ours.account)) == ("3\n", 1), ours


WORKERS = """
import multiprocessing, os, subprocess, sys
shared = [str(i) for i in range(50_000)]

class Thing:
    pass

def work(n):
    import mrm.cpython
    assert shared[n] == str(n)
    shared[n] = "mine"
    return mrm.cpython.installed() is not None, Thing, __name__

if __name__ == "__main__":
    for method in ("fork", "spawn", "forkserver"):
        with multiprocessing.get_context(method).Pool(3) as pool:
            told = pool.map(work, range(20), chunksize=1)
        assert all(word == str(i) for i, word in enumerate(shared))
        assert all(kind is Thing for _, kind, _ in told)
        print(method, {there for there, _, _ in told})
    code = "import mrm.cpython; print(mrm.cpython.installed() is not None)"
    print("subprocess", subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True).stdout.strip())
"""


@needs_arenas
@pytest.mark.parametrize("children", [False, True])
def test_workers(tmp_path, children):
    write(tmp_path, WORKERS)
    ours = by(RUN, [*(["--children"] if children else []), "script.py"], tmp_path)
    assert (ours.code, ours.err, len(ours.account)) == (0, "", 1), ours
    assert ours.out.splitlines() == [
        "fork {True}", f"spawn {{{children}}}", f"forkserver {{{children}}}", f"subprocess {children}",
    ]  # fmt: skip


def test_a_sitecustomize_of_others_has_its_turn(tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    write(site, "print('theirs')", "sitecustomize.py")
    child = "import sitecustomize; print(sitecustomize.__file__)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    path = os.pathsep.join([str(site), environment()["PYTHONPATH"]])
    ours = by(RUN, ["--children", "-c", code], tmp_path, PYTHONPATH=path)
    assert ours.out.splitlines() == ["theirs", "theirs", str(site / "sitecustomize.py")], ours


def test_a_hundred_forked_workers(tmp_path):
    write(
        tmp_path,
        """
        import os
        shared = {i: str(i) for i in range(20_000)}
        def child(n):
            for i in range(n, 20_000, 100):
                shared[i] = n
            assert sum(type(value) is int for value in shared.values()) == 200
        reading, writing = os.pipe()
        children = []
        for n in range(100):
            pid = os.fork()
            if pid == 0:
                os.close(writing)
                os.read(reading, 1)
                child(n)
                os._exit(0)
            children.append(pid)
        os.close(writing)
        assert {os.waitpid(pid, 0)[1] for pid in children} == {0}
        assert all(value == str(i) for i, value in shared.items())
        print("ran")
        """,
    )
    assert by(RUN, ["script.py"], tmp_path).out == "ran\n"


# ---- the command line ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "plan"),
    [
        (["a.py"], Plan(what="a.py")),
        (["a.py", "--pool", "-m"], Plan(what="a.py", arguments=["--pool", "-m"])),
        (["--", "-a.py"], Plan(what="-a.py")),
        (["--objects", "-m", "x", "-v"], Plan(True, False, True, way="module", what="x", arguments=["-v"])),
        (["--arrays", "-cprint()"], Plan(False, True, True, way="code", what="print()")),
        (["--arrays", "--objects", "--children", "-"], Plan(True, True, True, None, True, what="-")),
        (["--pool", "2MiB", "a"], Plan(pool=2 << 20, what="a")),
        (["--pool=2MiB", "a"], Plan(pool=2 << 20, what="a")),
        *((wrong, None) for wrong in (
            [], ["--pool"], ["--pool", "many", "a"], ["--pool=-1", "a"], ["-m"], ["-c"], ["--"], ["-x", "a"],
            ["--help"], ["-h"], ["--objects"],
        )),
    ],
)  # fmt: skip
def test_the_command_line(arguments, plan):
    assert parse(arguments) == plan


def test_what_children_are_told():
    for plan in (Plan(), Plan(False, True), Plan(True, False, pool=1 << 30)):
        told = Plan.from_variable(plan.to_variable())
        assert (told.objects, told.arrays, told.pool) == (plan.objects, plan.arrays, plan.pool)
        assert not told.asked
    assert Plan.from_variable("nonsense,pool=x,objects") == Plan(True, False)


def test_help_and_usage(capsys):
    assert cli.run(["run", "--help"]) == 0
    said = capsys.readouterr().out
    for word in ("Examples:", "Exit status:", "--pool SIZE", "--children", "fork"):
        assert word in said
    for wrong in ([], ["--objects"], ["--pool", "many", "x.py"], ["--nonsense", "x.py"]):
        assert cli.run(["run", *wrong]) == 2
        assert "Usage" in capsys.readouterr().err
