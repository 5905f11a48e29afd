-- Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
--
-- The ledger's one step: counts a batch and acknowledges it.  Sent by
-- ledger.c with sums for each user; either all of it happens or nothing.
--
-- KEYS  the stream
-- ARGV  group, consumer, prefix, now, max-claimed, claimed-ttl, daily-ttl,
--       dedup-ttl; then lists, each a count and its rows:
--       entries    id
--       runs seen  bucket, members...  (count, then bucket and run id)
--       SDK opens  key, value, ttl
--       users      see below
--
-- Answers {entries that are not ours to count (any more), runs that were
-- counted before}.  Where either is not empty nothing was done: ledger.c
-- leaves these out and asks again.

local at = 0
local function arg()
    at = at + 1
    return ARGV[at]
end

local stream, group, consumer, prefix = KEYS[1], arg(), arg(), arg()
local now, max_claimed = tonumber(arg()), tonumber(arg())
local claimed_ttl, daily_ttl, dedup_ttl = arg(), arg(), arg()

-- every entry has to be pending, and with us: another consumer may have
-- claimed it, and counted it, meanwhile

local ids, lost, again = {}, {}, {}
for i = 1, tonumber(arg()) do
    ids[i] = arg()
end

if #ids > 0 then
    local mine = {}
    local rows = redis.call('XPENDING', stream, group, ids[1], ids[#ids],
                            #ids + 100, consumer)
    for _, row in ipairs(rows) do
        mine[row[1]] = true
    end
    for _, id in ipairs(ids) do
        if not mine[id] and #redis.call('XPENDING', stream, group, id, id, 1,
                                        consumer) == 0 then
            lost[#lost + 1] = id
        end
    end
end

-- a run counts once, also where the stream has it twice

local buckets = {}
for _ = 1, tonumber(arg()) do
    local bucket, run = prefix .. 'ledger:seen:' .. arg(), arg()
    local b = buckets[bucket]
    if not b then
        b = {}
        buckets[bucket] = b
    end
    b[#b + 1] = run
end

local function pieces(list, fn)
    for i = 1, #list, 4000 do
        fn(unpack(list, i, math.min(i + 3999, #list)))
    end
end

for bucket, runs in pairs(buckets) do
    if redis.call('EXISTS', bucket) == 1 then
        local i = 0
        pieces(runs, function(...)
            for _, seen in ipairs(redis.call('SMISMEMBER', bucket, ...)) do
                i = i + 1
                if seen == 1 then
                    again[#again + 1] = runs[i]
                end
            end
        end)
    end
end

if #lost > 0 or #again > 0 then
    return {lost, again}
end

-- from here on everything is done

for bucket, runs in pairs(buckets) do
    pieces(runs, function(...)
        redis.call('SADD', bucket, ...)
    end)
    redis.call('PEXPIRE', bucket, dedup_ttl)
end

for _ = 1, tonumber(arg()) do
    local key, value, ttl = arg(), arg(), arg()
    redis.call('SET', key, value, 'PX', ttl)
end

-- numbers of this size are exact in a double (2^53), dollars up to 9 million

local function whole(n)
    return string.format('%.0f', n)
end

-- billionths of a dollar as decimal text
local function usd(nano)
    return string.format('%d.%09d', math.floor(nano / 1e9), nano % 1e9)
end

local names = {'runs', 'errors', 'aborted', 'rejected', 'input_tokens',
               'output_tokens', 'unpriced_runs', 'claimed_runs'}
local fields = {'runs', 'errors', 'aborted', 'rejected', 'input_tokens',
                'output_tokens', 'unpriced_runs', 'claimed_runs', 'cost_nano',
                'first_seen', 'last_seen', 'verified', 'models'}

local function read_sums()
    local sums = {}
    for i = 1, #names do
        sums[i] = tonumber(arg())
    end
    return sums, arg()
end

-- appends to `set` what a hash is to hold, by what it held
local function add(set, had, sums, cost)
    for i, name in ipairs(names) do
        if sums[i] ~= 0 then
            set[#set + 1] = name
            set[#set + 1] = whole((tonumber(had[i]) or 0) + sums[i])
        end
    end
    if cost ~= '' then
        local nano = (tonumber(had[9]) or 0) + tonumber(cost)
        set[#set + 1] = 'cost_nano'
        set[#set + 1] = whole(nano)
        set[#set + 1] = 'cost_usd'
        set[#set + 1] = usd(nano)
    end
end

-- at most 32 models by name: {"gpt-4o":3}
local function add_models(set, had)
    local n = tonumber(arg())
    if n == 0 then
        return
    end
    local ok, models = pcall(cjson.decode, had or '{}')
    if not ok or type(models) ~= 'table' then
        models = {}
    end
    local count = 0
    for _ in pairs(models) do
        count = count + 1
    end
    for _ = 1, n do
        local name, runs = arg(), tonumber(arg())
        if not models[name] then
            if count >= 32 then
                name = '(others)'
            end
            count = count + 1
        end
        models[name] = (tonumber(models[name]) or 0) + runs
    end
    set[#set + 1] = 'models'
    set[#set + 1] = cjson.encode(models)
end

-- a user's row: app, id ('' is nobody), verified, first, last, sums, cost,
-- models (count, then name and runs), threads (count, then ids), days
-- (count, then date, sums and cost)

local lists = {}

for _ = 1, tonumber(arg()) do
    local app, id, verified = arg(), arg(), arg() == '1'
    local first, last = arg(), arg()
    local sums, cost = read_sums()
    local name = app .. ':' .. id
    local key = prefix .. 'user:' .. name
    local claimed = prefix .. 'claimed:' .. app
    local day = prefix .. 'user-day:' .. name .. ':'
    local threads = prefix .. 'user-threads:' .. name
    local rest = false
    local had

    if id == '' then
        rest = 'none'

    else
        had = redis.call('HMGET', key, unpack(fields))
        if not verified and not had[1]
           and redis.call('EXISTS', key) == 0 then
            redis.call('ZREMRANGEBYSCORE', claimed, '-inf',
                       whole(now - claimed_ttl))
            if redis.call('ZCARD', claimed) >= max_claimed then
                rest = 'claimed'
            end
        end
    end

    if rest then
        name = app .. ':' .. rest
        key = prefix .. 'user-rest:' .. name
        day = prefix .. 'user-rest-day:' .. name .. ':'
        threads = prefix .. 'user-rest-threads:' .. name
        had = redis.call('HMGET', key, unpack(fields))
    end

    local set = {}
    add(set, had, sums, cost)
    add_models(set, had[13])

    local n = tonumber(arg())
    if n > 0 then
        for _ = 1, n do
            redis.call('PFADD', threads, arg())
        end
        set[#set + 1] = 'threads'
        set[#set + 1] = redis.call('PFCOUNT', threads)
    end

    if not had[10] or tonumber(had[10]) > tonumber(first) then
        set[#set + 1] = 'first_seen'
        set[#set + 1] = first
    end
    if not had[11] or tonumber(had[11]) < tonumber(last) then
        set[#set + 1] = 'last_seen'
        set[#set + 1] = last
    end
    if verified and had[12] ~= '1' then
        set[#set + 1] = 'verified'
        set[#set + 1] = '1'
    end
    if #set > 0 then
        redis.call('HSET', key, unpack(set))
    end

    for _ = 1, tonumber(arg()) do
        local bucket = day .. arg()
        local before = redis.call('HMGET', bucket, unpack(fields, 1, 9))
        set = {}
        add(set, before, read_sums())
        if #set > 0 then
            redis.call('HSET', bucket, unpack(set))
            if not before[1] then
                redis.call('PEXPIRE', bucket, daily_ttl)
            end
        end
    end

    if not rest then
        local list = lists[app]
        if not list then
            list = {}
            lists[app] = list
        end
        list[#list + 1] = last
        list[#list + 1] = id

        if verified then
            if had[12] ~= '1' then
                redis.call('PERSIST', key)
                redis.call('PERSIST', threads)
                redis.call('ZREM', claimed, id)
            end
        elseif had[12] ~= '1' then
            redis.call('ZADD', claimed, 'GT', last, id)
            redis.call('PEXPIRE', key, claimed_ttl)
            redis.call('PEXPIRE', threads, claimed_ttl)
        end
    end
end

for app, list in pairs(lists) do
    pieces(list, function(...)
        redis.call('ZADD', prefix .. 'users:' .. app, 'GT', ...)
    end)
end

for i = 1, #ids, 4000 do
    redis.call('XACK', stream, group,
               unpack(ids, i, math.min(i + 3999, #ids)))
end

return {lost, again}
