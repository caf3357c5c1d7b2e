-- Closures and coroutines: pipelines of functions that capture variables, generators that are
-- resumed and dropped half way. Many small blocks of mixed sizes, and stacks that grow and go.
--
-- Argument: how many numbers go through the pipelines.

local numbers = math.tointeger((...) or 250000)

local function compose(f, g) return function(x) return g(f(x)) end end

local function adder(n) return function(x) return x + n end end

local function counter()
    local count = 0
    return {
        up = function() count = count + 1 return count end,
        get = function() return count end,
    }
end

local total, calls = 0, counter()
for i = 1, numbers do
    local f = adder(i)
    for k = 1, 4 do f = compose(f, adder(k)) end
    total = (total + f(i)) & 0xffffffff
    calls.up()
end
print(string.format("composed: %d calls, %08x", calls.get(), total))

local function range(n)
    return coroutine.wrap(function() for i = 1, n do coroutine.yield(i) end end)
end

local function map(f, items)
    return coroutine.wrap(function() for x in items do coroutine.yield(f(x)) end end)
end

local function filter(wanted, items)
    return coroutine.wrap(function() for x in items do if wanted(x) then coroutine.yield(x) end end end)
end

local sum = 0
for x in filter(function(x) return x % 3 == 0 end, map(function(x) return x * x end, range(numbers))) do
    sum = (sum + x) & 0xffffffff
end
print(string.format("piped: %08x", sum))

-- Generators that nobody exhausts, each with a stack that has grown.
local function deep(n) if n == 0 then coroutine.yield(0) return 0 end return 1 + deep(n - 1) end
local kept, resumed = {}, 0
for i = 1, numbers // 20 do
    local thread = coroutine.create(deep)
    assert(coroutine.resume(thread, i % 50))
    resumed = resumed + 1
    kept[i % 100 + 1] = thread
end
local finished = 0
for _, thread in pairs(kept) do
    local ok, depth = coroutine.resume(thread)
    assert(ok)
    finished = finished + depth
end
print(string.format("generators: %d begun, those that were kept were %d deep", resumed, finished))
