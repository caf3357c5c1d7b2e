-- Tables as arrays and as hashes: few blocks, which grow by doubling to megabytes, so that
-- realloc of large blocks is what counts.
--
-- Argument: how many elements the large ones have.

local elements = math.tointeger((...) or 300000)

local seed = 7
local function random(n)
    seed = (seed * 1103515245 + 12345) & 0x7fffffff
    return (seed >> 8) % n + 1
end

local function sum(array)
    local total = 0
    for i = 1, #array do total = (total * 31 + array[i]) & 0xffffffff end
    return total
end

-- Arrays that grow by one, many times over, and are sorted.
for round = 1, 3 do
    local array = {}
    for i = 1, elements do array[i] = random(1000000) end
    local unsorted = sum(array)
    if round == 1 then table.sort(array) end
    print(string.format("array %d: %d elements, %08x, then %08x", round, #array, unsorted, sum(array)))
end

-- Hashes whose keys come and go.
local hash, alive = {}, 0
for i = 1, 2 * elements do
    local key = random(elements) * 3
    if hash[key] then
        hash[key] = nil
        alive = alive - 1
    else
        hash[key] = i
        alive = alive + 1
    end
end
local keys, values = 0, 0
for key, value in pairs(hash) do
    keys = (keys + key) & 0xffffffff
    values = (values + value) & 0xffffffff
end
print(string.format("hash: %d of %d keys, %08x, %08x", alive, elements, keys, values))

-- Rows of numbers, as a matrix is made of.
local size = math.floor((elements / 12) ^ 0.5)
local a, b, c = {}, {}, {}
for i = 1, size do
    a[i], b[i], c[i] = {}, {}, {}
    for j = 1, size do a[i][j], b[i][j] = random(9), random(9) end
end
for i = 1, size do
    local row, to = a[i], c[i]
    for j = 1, size do
        local total = 0
        for k = 1, size do total = total + row[k] * b[k][j] end
        to[j] = total
    end
end
local trace = 0
for i = 1, size do trace = trace + c[i][i] end
print(string.format("matrices of %d rows: trace %d, last row %08x", size, trace, sum(c[size])))

-- A queue: one end grows as the other is emptied.
local queue, first, last, passed = {}, 1, 0, 0
for i = 1, 3 * elements do
    last = last + 1
    queue[last] = i
    if i % 3 ~= 0 then
        passed = (passed + queue[first]) & 0xffffffff
        queue[first] = nil
        first = first + 1
    end
end
print(string.format("queue: %d left, %08x passed", last - first + 1, passed))
