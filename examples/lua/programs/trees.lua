-- Binary trees, made and forgotten: most blocks are small tables that die young, beside a
-- tree that lives throughout. What is printed depends on every node that was made.
--
-- Argument: the depth of the largest trees.

local depth = math.tointeger((...) or 15)

local function tree(levels)
    if levels == 0 then return {} end
    return {tree(levels - 1), tree(levels - 1)}
end

local function nodes(t)
    if not t[1] then return 1 end
    return 1 + nodes(t[1]) + nodes(t[2])
end

local lasting = tree(depth)
for levels = 4, depth, 3 do
    local trees = 2 ^ (depth - levels + 4) // 1 | 0
    local count = 0
    for _ = 1, trees do count = count + nodes(tree(levels)) end
    print(string.format("%6d trees of depth %2d: %9d nodes", trees, levels, count))
end
print(string.format("the tree of depth %d that lived throughout: %d nodes", depth, nodes(lasting)))
