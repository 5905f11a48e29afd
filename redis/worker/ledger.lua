-- Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
--
-- The ledger's one step: counts a batch and acknowledges it.  Sent by
-- ledger_call.c with sums for each user.
--
-- Either nothing of it happens (an error, or an answer that names entries),
-- or all of it: what can fail is tried before the first write, and behind
-- that no error ends the script, for a half counted batch would be counted
-- again.  A key of another type, that somebody else has put in the way, is
-- passed over, and told.
--
-- KEYS  the stream
-- ARGV  group, consumer, prefix, now, max-claimed, claimed-ttl, daily-ttl,
--       dedup-ttl, open-ttl, and the batch as MessagePack, for an argument
--       costs Redis as much as a small command; numbers are text in it:
--
--   batch  {ids, seen, opens, users}
--   seen   {bucket, {member, ...}}, ...      runs, so that they count once
--   opens  {key, value}, ...                 starts that SDKs told of
--   users  {app, id, verified, first, last, sums, models, threads, days}, ...
--   sums   name, value, ...                  of counters
--   models name, runs, ...
--   days   {date, sums}, ...                 sums absent: the user's
--
-- An id of '' is nobody.
--
-- Answers {entries that are not pending any more, runs that were counted
-- before, how many writes failed}.  Where one of the first two is not empty
-- nothing was done: the ledger leaves these out and asks again.

-- numbers are few and often the same: reading one costs as much as asking
-- Redis for something

local number = setmetatable({}, {__index = function(known, text)
    local n = tonumber(text)
    known[text] = n
    return n
end})

-- of two numbers of digits alone, as text
local function less(a, b)
    if #a ~= #b then
        return #a < #b
    end
    return a < b
end

local stream, group, consumer, prefix = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local now, max_claimed = tonumber(ARGV[4]), tonumber(ARGV[5])
local claimed_ttl, daily_ttl, dedup_ttl = ARGV[6], ARGV[7], ARGV[8]
local open_ttl = ARGV[9]
local ids, seen, opens, users = unpack(cmsgpack.unpack(ARGV[10]))

-- every entry has to be pending still: what is not was counted by somebody
-- who had claimed it.  A list of at most 5000 fits Lua's stack.

local lost, again = {}, {}
local rows = redis.call('XPENDING', stream, group, ids[1], ids[#ids],
                        #ids + 100, consumer)
local i = 1
for _, id in ipairs(ids) do
    while rows[i] and rows[i][1] ~= id do
        i = i + 1
    end
    if not rows[i] then
        lost[1] = id
        break
    end
    i = i + 1
end

-- not in that order, or not all with us: one by one

if lost[1] then
    lost = {}
    for _, id in ipairs(ids) do
        if #redis.call('XPENDING', stream, group, id, id, 1) == 0 then
            lost[#lost + 1] = id
        end
    end
end

-- a run counts once, also where the stream has it twice

for _, b in ipairs(seen) do
    b[1] = prefix .. 'ledger:seen:' .. b[1]
    if redis.call('EXISTS', b[1]) == 1 then
        local had = redis.call('SMISMEMBER', b[1], unpack(b[2]))
        for k, member in ipairs(b[2]) do
            if had[k] == 1 then
                again[#again + 1] = member
            end
        end
    end
end

if #lost > 0 or #again > 0 then
    return {lost, again, 0}
end

-- writes nothing, and fails where Redis takes no writes: memory, disk, role

redis.call('SETRANGE', prefix .. 'ledger:probe', 0, '')

-- from here on everything is done

local failed = 0
local function try(...)
    local answer = redis.pcall(...)
    if type(answer) == 'table' and answer.err then
        failed = failed + 1
        return nil
    end
    return answer
end

for _, b in ipairs(seen) do
    try('SADD', b[1], unpack(b[2]))
    try('PEXPIRE', b[1], dedup_ttl)
end

for _, open in ipairs(opens) do
    try('SET', open[1], open[2], 'PX', open_ttl)
end

-- adds name and value pairs to a hash: whole numbers, dollars in billionths;
-- exact in a double (2^53) up to 9 million dollars.  Answers cost_usd, if it
-- is another now, and whether one of them is new

local function add(key, sums)
    local cost, new
    for k = 1, #sums, 2 do
        local sum = try('HINCRBY', key, sums[k], sums[k + 1])
        new = new or sum == number[sums[k + 1]]
        if sums[k] == 'cost_nano' and sum then
            cost = string.format('%d.%09d', math.floor(sum / 1e9),
                                 sum % 1e9)
        end
    end
    return cost, new
end

-- at most 32 models by name: {"gpt-4o":3}; nil where there are none to add

local function add_models(had, list)
    if #list == 0 then
        return nil
    end
    local ok, models = pcall(cjson.decode, had or '{}')
    if not ok or type(models) ~= 'table' then
        models = {}
    end
    local count = 0
    for _ in pairs(models) do
        count = count + 1
    end
    for k = 1, #list, 2 do
        local name, runs = list[k], number[list[k + 1]]
        if not models[name] then
            if count >= 32 then
                name = '(others)'
            end
            count = count + 1
        end
        models[name] = (tonumber(models[name]) or 0) + runs
    end
    local text
    ok, text = pcall(cjson.encode, models)
    return ok and text or '{}'
end

local lists = {}

for _, user in ipairs(users) do
    local app, id, verified, first, last, sums, models, threads, days =
        unpack(user)
    verified = verified == '1'
    local name = app .. ':' .. id
    local key = prefix .. 'user:' .. name
    local claimed = prefix .. 'claimed:' .. app
    local rest = ''
    local had

    if id == '' then
        rest = 'none'

    else
        had = try('HMGET', key, 'first_seen', 'last_seen', 'verified',
                  'models') or {}
        if not verified and not had[1]
           and redis.call('EXISTS', key) == 0 then
            try('ZREMRANGEBYSCORE', claimed, '-inf',
                string.format('%.0f', now - claimed_ttl))
            if (try('ZCARD', claimed) or 0) >= max_claimed then
                rest = 'claimed'
            end
        end
    end

    local kind = 'user'
    if rest ~= '' then
        kind = 'user-rest'
        name = app .. ':' .. rest
        key = prefix .. 'user-rest:' .. name
        had = try('HMGET', key, 'first_seen', 'last_seen', 'verified',
                  'models') or {}
    end

    local set = {}
    local cost = add(key, sums)
    if cost then
        set[1] = 'cost_usd'
        set[2] = cost
    end

    models = add_models(had[4], models)
    if models then
        set[#set + 1] = 'models'
        set[#set + 1] = models
    end

    local counted = prefix .. kind .. '-threads:' .. name
    if #threads > 0 then
        try('PFADD', counted, unpack(threads))
        set[#set + 1] = 'threads'
        set[#set + 1] = try('PFCOUNT', counted) or 0
    end

    if not had[1] or less(first, had[1]) then
        set[#set + 1] = 'first_seen'
        set[#set + 1] = first
    end
    if not had[2] or less(had[2], last) then
        set[#set + 1] = 'last_seen'
        set[#set + 1] = last
    end
    if verified and had[3] ~= '1' then
        set[#set + 1] = 'verified'
        set[#set + 1] = '1'
    end
    if #set > 0 then
        try('HSET', key, unpack(set))
    end

    for _, day in ipairs(days) do
        local bucket = prefix .. kind .. '-day:' .. name .. ':' .. day[1]
        local new
        cost, new = add(bucket, day[2] or sums)
        if cost then
            try('HSET', bucket, 'cost_usd', cost)
        end
        if new then
            try('PEXPIRE', bucket, daily_ttl)
        end
    end

    if rest == '' then
        local list = lists[app]
        if not list then
            list = {}
            lists[app] = list
        end
        list[#list + 1] = last
        list[#list + 1] = id

        if verified then
            if had[3] ~= '1' then
                try('PERSIST', key)
                try('PERSIST', counted)
                try('ZREM', claimed, id)
            end
        elseif had[3] ~= '1' then
            try('ZADD', claimed, 'GT', last, id)
            try('PEXPIRE', key, claimed_ttl)
            try('PEXPIRE', counted, claimed_ttl)
        end
    end
end

for app, list in pairs(lists) do
    for i = 1, #list, 4000 do
        try('ZADD', prefix .. 'users:' .. app, 'GT',
            unpack(list, i, math.min(i + 3999, #list)))
    end
end

redis.call('XACK', stream, group, unpack(ids))

return {lost, again, failed}
