-- Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
--
-- The same job as a Lua user would write it, to compare with: bodies decoded
-- with cjson, runs queued in the worker, a timer that pipelines XADD.  It is
-- written to be fast (locals, one table a run, one pipeline a flush), not to be
-- complete: one API, no streams, no spool, no limits.

local cjson = require("cjson.safe")
local redis = require("nginx.redis")

local concat = table.concat
local decode, encode = cjson.decode, cjson.encode
local timer = ngx.timer.at

local FLUSH = 0.01
local BATCH = 200

local _M = {}
local queue, n = {}, 0
local port


local function send(db, from, to)
    db:init_pipeline(to - from + 1)

    for i = from, to do
        local run = queue[i]
        queue[i] = nil
        db:xadd("lua:runs", "MAXLEN", "~", 2000, "*", unpack(run))
    end

    return db:commit_pipeline()
end


local function flush(premature)
    if n > 0 then
        local db = redis:new()
        db:set_timeout(5000)

        if db:connect("127.0.0.1", port) then
            local last = n
            for from = 1, last, BATCH do
                send(db, from, math.min(from + BATCH - 1, last))
            end

            -- what came while it was sent moves to the front
            for i = last + 1, n do
                queue[i - last], queue[i] = queue[i], nil
            end
            n = n - last

            db:set_keepalive(60000, 4)
        end
    end

    if not premature then
        timer(FLUSH, flush)
    end
end


function _M.start(redis_port)
    port = redis_port
    timer(FLUSH, flush)
end


function _M.request()
    ngx.req.read_body()

    local text = ngx.req.get_body_data()
    local body = text and decode(text)

    if body then
        ngx.ctx.body = body
        ngx.ctx.size = #text
        ngx.ctx.user = body.user
    end
end


function _M.response()
    local ctx = ngx.ctx
    local chunks = ctx.chunks

    if not chunks then
        chunks = {}
        ctx.chunks = chunks
    end

    chunks[#chunks + 1] = ngx.arg[1]
end


function _M.log()
    local ctx, var = ngx.ctx, ngx.var
    local body = ctx.body

    if not body then
        return
    end

    local text = concat(ctx.chunks or {})
    local answer = decode(text) or {}
    local choice = answer.choices and answer.choices[1] or {}
    local usage = answer.usage or {}
    local now = ngx.now() * 1000
    local start = ngx.req.start_time() * 1000

    local messages = encode(body.messages)
    body.messages = nil
    local model = body.model
    body.model = nil

    n = n + 1
    queue[n] = {
        "kind", "run", "v", "1", "origin", "proxy",
        "run_id", var.request_id, "app", "default", "type", "llm",
        "provider", "openai", "api", "openai.chat",
        "user_id", ctx.user or "", "user_source", "body",
        "user_verified", "0",
        "model", model or "", "response_model", answer.model or "",
        "response_id", answer.id or "", "params", encode(body),
        "input", messages, "output", encode(choice.message),
        "input_bytes", #messages, "stream", "0",
        "finish_reason", choice.finish_reason or "",
        "usage", encode(usage),
        "prompt_tokens", usage.prompt_tokens or "",
        "completion_tokens", usage.completion_tokens or "",
        "total_tokens", usage.total_tokens or "",
        "input_tokens", usage.prompt_tokens or "",
        "output_tokens", usage.completion_tokens or "",
        "request_bytes", ctx.size, "response_bytes", #text,
        "status", var.status, "upstream_status", var.upstream_status,
        "upstream_addr", var.upstream_addr, "outcome", "ok",
        "started_at", start, "ended_at", now, "duration_ms", now - start,
        "method", "POST", "uri", var.uri, "host", var.host,
        "node", var.hostname,
    }
end


return _M
