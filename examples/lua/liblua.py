"""Lua 5.4 as its users have it, the shared library, driven by cffi without a compiler or a header.

A Lua state asks one function for all of its memory: it is given to ``lua_newstate``, with a
pointer that it gets back in each call. mrm has a function of that shape in its table, so
that the whole state lies on a heap of mrm's by two pointers, and no allocation passes
through Python::

    with mrm.Pool("64MiB") as pool, mrm.Heap(pool) as heap, State(heap) as lua:
        lua.run("return 'hello from ' .. _VERSION")
"""

from pathlib import Path
from types import TracebackType
from typing import Self

import cffi

import mrm
from mrm.cffi import api

#: What the library is called: by Debian and Ubuntu, by Fedora, by Arch, by Alpine, by Lua's own Makefile.
NAMES = ("liblua5.4.so.0", "liblua-5.4.so", "liblua.so.5.4", "liblua-5.4.so.0", "liblua5.4.so")

WANTED = (
    "this needs the shared library of Lua 5.4 (tried: {names}): install Debian's or Ubuntu's liblua5.4-0, "
    "Fedora's lua-libs, Arch's lua54, Alpine's lua5.4-libs"
)

ffi = cffi.FFI()
ffi.cdef("""
    typedef struct lua_State lua_State;
    typedef void *(*lua_Alloc)(void *ud, void *block, size_t osize, size_t nsize);
    typedef intptr_t lua_KContext;
    typedef int (*lua_KFunction)(lua_State *L, int status, lua_KContext ctx);

    lua_State *lua_newstate(lua_Alloc f, void *ud);
    lua_Alloc lua_getallocf(lua_State *L, void **ud);
    lua_State *luaL_newstate(void);
    void luaL_openlibs(lua_State *L);
    void lua_close(lua_State *L);
    double lua_version(lua_State *L);
    int luaL_loadbufferx(lua_State *L, const char *text, size_t size, const char *name, const char *mode);
    int lua_pcallk(lua_State *L, int nargs, int nresults, int msgh, lua_KContext ctx, lua_KFunction k);
    const char *lua_tolstring(lua_State *L, int index, size_t *size);
    const char *lua_pushlstring(lua_State *L, const char *text, size_t size);
    int lua_gettop(lua_State *L);
    void lua_settop(lua_State *L, int index);
    int lua_checkstack(lua_State *L, int n);
""")

_OK, _OUT_OF_MEMORY = 0, 4  # LUA_OK, LUA_ERRMEM


class LuaMissingError(ImportError):
    """There is no Lua on this machine; the message says what to install."""


class LuaError(RuntimeError):
    """An error of a Lua program."""


class LuaMemoryError(LuaError, MemoryError):
    """A Lua program wanted more memory than there was. The state goes on."""


def load() -> "cffi.FFI.lib":
    """The library; LuaMissingError if there is none.

    It is looked for here and not on import, so that what only wants to know whether there is one may ask.
    """
    for name in NAMES:
        try:
            lib = ffi.dlopen(name)
        except OSError:
            continue
        if lib.lua_version(ffi.NULL) == 504:
            return lib
    raise LuaMissingError(WANTED.format(names=", ".join(NAMES)))


class State:
    """A Lua state with the standard libraries.

    Parameters
    ----------
    heap : mrm.Heap, optional
        Where all of it lies; None: where malloc puts it. The heap may be closed before the state:
        its blocks end when both are.
    """

    def __init__(self, heap: "mrm.Heap | None" = None) -> None:
        self._state = self._heap = ffi.NULL
        self._lib = load()
        if heap is None:
            self._state = self._lib.luaL_newstate()
        else:
            self._heap = api.heap_from_object(ffi.cast("void *", id(heap)))  # with a use of our own
            if self._heap == ffi.NULL:
                raise mrm.ArgumentError(f"{heap!r} is no open mrm.Heap")
            self._state = self._lib.lua_newstate(ffi.cast("lua_Alloc", api.heap_lua_alloc), self._heap)
        if self._state == ffi.NULL:
            self.close()
            raise LuaMemoryError("there is no memory for a Lua state, some 30 KiB: open a larger pool")
        # What goes wrong here would end the process, as Lua calls it in no protected mode. It takes less
        # than what is left of the frame that the state has just been put on.
        self._lib.luaL_openlibs(self._state)

    @property
    def allocator(self) -> tuple[int, int]:
        """Addresses of the function that the state asks for memory, and of what it passes to it."""
        context = ffi.new("void **")
        function = self._lib.lua_getallocf(self._open(), context)
        return int(ffi.cast("uintptr_t", function)), int(ffi.cast("uintptr_t", context[0]))

    def run(self, program: str | bytes | Path, *arguments: str) -> list[str]:
        """Run a program, a text or a file, and return its results as strings.

        Raises
        ------
        LuaError
            If it does not compile, or ends with an error; LuaMemoryError for want of memory.
        """
        state = self._open()
        name = f"@{program}" if isinstance(program, Path) else "=program"
        text = program.read_bytes() if isinstance(program, Path) else program
        text = text.encode() if isinstance(text, str) else text
        before = self._lib.lua_gettop(state)
        try:
            self._check(self._lib.luaL_loadbufferx(state, text, len(text), name.encode(), b"t"))
            if not self._lib.lua_checkstack(state, len(arguments)):
                raise LuaMemoryError(f"no room for {len(arguments)} arguments on Lua's stack")
            for argument in arguments:
                encoded = argument.encode()
                self._lib.lua_pushlstring(state, encoded, len(encoded))
            self._check(self._lib.lua_pcallk(state, len(arguments), -1, 0, 0, ffi.NULL))
            return [self._text(i) for i in range(before + 1, self._lib.lua_gettop(state) + 1)]
        finally:
            self._lib.lua_settop(state, before)

    def close(self) -> None:
        """End the state: all its memory is given back."""
        if self._state != ffi.NULL:
            self._lib.lua_close(self._state)
            self._state = ffi.NULL
        if self._heap != ffi.NULL:
            api.heap_close(self._heap)
            self._heap = ffi.NULL

    def __del__(self) -> None:
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> "cffi.FFI.CData":
        if self._state == ffi.NULL:
            raise LuaError("the state is closed")
        return self._state

    def _check(self, status: int) -> None:
        if status == _OUT_OF_MEMORY:
            raise LuaMemoryError(
                f"{self._text(-1)}: the program needs more than there is; open a larger pool"
            )
        if status != _OK:
            raise LuaError(self._text(-1))

    def _text(self, index: int) -> str:
        """A string or number on the stack, as text; other values have none."""
        size = ffi.new("size_t *")
        text = self._lib.lua_tolstring(self._state, index, size)
        return "" if text == ffi.NULL else ffi.buffer(text, size[0])[:].decode(errors="replace")
