"""Runs a program in this interpreter as ``python`` would.

``__main__`` is a new module, which stays in ``sys.modules`` until the interpreter ends, so that
threads, handlers of the end, and pickle find it; ``multiprocessing`` finds by its ``__file__`` or ``__spec__``
what to import in a process that it starts anew. Exceptions go on to the interpreter, which
knows what to do at a SystemExit, or a KeyboardInterrupt; only our own frames are taken out
of the traceback, when it is shown.
"""

import importlib.machinery
import linecache
import os
import pkgutil
import runpy
import sys
from types import CodeType, ModuleType, TracebackType
from typing import Any

from mrm.tools.run.plan import Plan


class NoProgram(Exception):
    """The script cannot be read."""


def run(plan: Plan) -> None:
    """Run it, to its end; what it raises comes through.

    Raises
    ------
    NoProgram
        If there is no such file.
    """
    main = sys.modules["__main__"] = ModuleType("__main__")
    main.__dict__.update(__builtins__=sys.modules["builtins"], __annotations__={})
    try:
        execute(plan, main)
    except SystemExit:
        raise
    except NoProgram:
        raise
    except BaseException:
        _show_without_us()
        raise


def execute(plan: Plan, main: ModuleType) -> None:
    """The last frame of ours: the program's begin below it."""
    code: CodeType
    if plan.way == "module":
        sys.argv = ["-m", *plan.arguments]
        _search_first(os.getcwd())
        runpy._run_module_as_main(plan.what)  # type: ignore[attr-defined]
        return
    sys.argv = ["-c" if plan.way == "code" else plan.what, *plan.arguments]
    if plan.way == "code":
        _search_first("")
        main.__loader__ = importlib.machinery.BuiltinImporter
        code = compile(plan.what, "<string>", "exec", dont_inherit=True)
        if sys.version_info >= (3, 13):  # from there on, tracebacks show its lines
            lines = plan.what.splitlines(keepends=True)
            linecache.cache["<string>"] = (len(plan.what), None, lines, "<string>")
    elif plan.what == "-":
        _search_first("")
        main.__dict__.update(
            __file__="<stdin>", __cached__=None, __loader__=importlib.machinery.BuiltinImporter
        )
        code = compile(sys.stdin.buffer.read(), "<stdin>", "exec", dont_inherit=True)
    elif _is_importable(plan.what):  # a folder, or an archive, with a __main__.py
        _search_first(_absolute(plan.what), even_if_safe=True)
        runpy._run_module_as_main("__main__", alter_argv=False)  # type: ignore[attr-defined]
        return
    else:
        code = _script(plan.what, main)
    try:
        exec(code, main.__dict__)
    finally:
        # As python has it: handlers of the end find neither.
        for name in ("__file__", "__cached__"):
            main.__dict__.pop(name, None)


def _script(path: str, main: ModuleType) -> CodeType:
    """The code of a file, with ``__main__`` made ready for it."""
    whole = _absolute(path)
    kind: Any = importlib.machinery.SourceFileLoader
    if path.endswith(".pyc"):
        kind = importlib.machinery.SourcelessFileLoader
    loader = kind("__main__", whole)
    try:
        source = loader.get_data(whole)
    except OSError as error:
        raise NoProgram(f"can't open file {whole!r}: [Errno {error.errno}] {error.strerror}") from None
    _search_first(os.path.dirname(os.path.realpath(path)))
    main.__dict__.update(__file__=whole, __cached__=None, __loader__=loader)
    if kind is importlib.machinery.SourcelessFileLoader:
        return loader.get_code("__main__")  # type: ignore[no-any-return]
    return compile(source, whole, "exec", dont_inherit=True)


def _absolute(path: str) -> str:
    """A path as python makes it absolute: otherwise it stays as it was given."""
    return path if os.path.isabs(path) else os.path.join(os.getcwd(), path.removeprefix("./"))


def _is_importable(path: str) -> bool:
    importer = pkgutil.get_importer(path)
    return importer is not None and not (
        isinstance(importer, importlib.machinery.FileFinder) and not os.path.isdir(path)
    )


def _search_first(folder: str, *, even_if_safe: bool = False) -> None:
    """Put a folder where ``python`` puts a program's; what is there is that of ``mrm``."""
    if sys.flags.safe_path:
        if even_if_safe:
            sys.path.insert(0, folder)
    else:
        sys.path[0:1] = [folder]


def _show_without_us() -> None:
    """Have the interpreter show the exception that is under way without our frames."""
    hook = sys.excepthook

    def show(kind: type[BaseException], value: BaseException, traceback: TracebackType | None) -> None:
        inner = traceback
        while inner is not None and inner.tb_frame.f_code is not execute.__code__:
            inner = inner.tb_next
        while inner is not None and inner.tb_frame.f_code.co_filename == __file__:
            traceback = inner = inner.tb_next
        hook(kind, value.with_traceback(traceback), traceback)

    sys.excepthook = show
