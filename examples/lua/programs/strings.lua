-- Strings, built up and taken apart: blocks of all sizes from a few bytes to megabytes, of
-- which many are made by realloc, as a string buffer grows.
--
-- Argument: how many words there are.

local words = math.tointeger((...) or 150000)

local seed = 42
local function random(n)                        -- the same numbers everywhere
    seed = (seed * 1103515245 + 12345) & 0x7fffffff
    return (seed >> 8) % n + 1
end

local function checksum(text)
    local sum = 0
    for i = 1, #text, 97 do sum = (sum * 31 + text:byte(i)) & 0xffffffff end
    return sum
end

local syllables = {"ba", "ko", "mi", "ne", "ru", "sa", "to", "vi", "xu", "ze"}
local made = {}
for i = 1, words do
    local parts = {}
    for k = 1, random(9) do parts[k] = syllables[random(#syllables)] end
    made[i] = table.concat(parts)
end

-- One long string, by a buffer; and many of middling size, each longer than the one before.
local text = table.concat(made, " ")
local line, longest, lines = "", 0, 0
for i = 1, words do
    line = line .. made[i] .. (i % 7 == 0 and "," or "") .. " "
    if #line > 2000 then
        longest, lines, line = math.max(longest, #line), lines + 1, ""
    end
end
print(string.format("text      %9d bytes  %08x", #text, checksum(text)))
print(string.format("lines     %9d        longest %d", lines, longest))

local count, frequent = {}, ""
for word in text:gmatch("%a+") do count[word] = (count[word] or 0) + 1 end
local kinds, most = 0, 0
for word, n in pairs(count) do
    kinds = kinds + 1
    if n > most or n == most and word < frequent then most, frequent = n, word end
end
print(string.format("kinds     %9d        most frequent %s, %d times", kinds, frequent, most))

local changed = text:gsub("(%a)(%a+)", function(first, rest) return first:upper() .. rest end)
print(string.format("changed   %9d bytes  %08x", #changed, checksum(changed)))
local doubled = changed
for _ = 1, 3 do doubled = doubled .. doubled:reverse() end
print(string.format("doubled   %9d bytes  %08x", #doubled, checksum(doubled)))
local formatted = {}
for i = 1, words do formatted[i] = string.format("%08d:%-20s|%q", i, made[i], made[i]) end
local all = table.concat(formatted, "\n")
print(string.format("formatted %9d bytes  %08x", #all, checksum(all)))
