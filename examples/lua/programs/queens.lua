-- Queens on a board, none in reach of another: hardly an allocation while it searches, then
-- every solution kept as a table. What an allocator costs a program that does not need one.
--
-- Argument: the size of the board.

local size = math.tointeger((...) or 12)

local solutions = {}
local columns, rising, falling, board = {}, {}, {}, {}

local function place(row)
    if row > size then
        solutions[#solutions + 1] = {table.unpack(board)}
        return
    end
    for column = 1, size do
        if not (columns[column] or rising[row + column] or falling[row - column]) then
            board[row] = column
            columns[column], rising[row + column], falling[row - column] = true, true, true
            place(row + 1)
            columns[column], rising[row + column], falling[row - column] = nil, nil, nil
        end
    end
end

place(1)
local sum = 0
for _, solution in ipairs(solutions) do
    for row, column in ipairs(solution) do sum = (sum * 31 + row * column) & 0xffffffff end
end
print(string.format("%d queens: %d solutions, %08x", size, #solutions, sum))
local first = solutions[1]
for row = 1, size do
    print(string.rep(". ", first[row] - 1) .. "Q " .. string.rep(". ", size - first[row]))
end
