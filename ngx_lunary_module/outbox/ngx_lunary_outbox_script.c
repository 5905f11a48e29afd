/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The script that puts a batch into the stream, the commands that call it,
 * and what it answers.
 *
 * It is a string here, not a file: the text and the code that speaks to it
 * belong to one version, and nothing has to be found at run time.  It is
 * called by EVALSHA, and by EVAL where Redis answers NOSCRIPT.
 *
 * Why a script: compare, XADD and move must be one step, and the watermark
 * must not move past an XADD that failed.  A batch that was held up on its
 * way (in a proxy, in a stopped Redis) arrives with a watermark that is no
 * longer there and is refused.  For the same reason a watermark is opened
 * with a random value and a batch finds it or fails: after it was deleted,
 * nothing that is still under way can be applied.
 */

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_sha1.h>

#include "ngx_lunary_outbox_internal.h"
#include "lunary_spool_format.h"


#define NGX_LUNARY_OUTBOX_LUA                                                 \
    /* KEYS: stream, watermark */                                             \
    "local w = redis.pcall('GET', KEYS[2])\n"                                 \
    "if type(w) == 'table' then return {'error', '', w.err} end\n"            \
                                                                              \
    /* open, watermark to begin with; what is none is overwritten */          \
    "if ARGV[1] == 'open' then\n"                                             \
    "  if w then\n"                                                           \
    "    local v = string.match(w, '^~%d+~(.*)$') or w\n"                     \
    "    if #w < 64 and (string.match(v, '^%d+$') or "                        \
             "string.match(v, '^0%-%x+$')) then\n"                            \
    "      return {'ok', w, 'found'}\n"                                       \
    "    end\n"                                                               \
    "  end\n"                                                                 \
    "  local r = redis.pcall('SET', KEYS[2], ARGV[2])\n"                      \
    "  if r.err then return {'error', '', r.err} end\n"                       \
    "  return {'ok', ARGV[2], w and 'replaced' or 'created'}\n"               \
    "end\n"                                                                   \
                                                                              \
    "local function before(a, b)\n"                                           \
    "  local am, as = string.match(a, '^(%d+)-(%d+)$')\n"                     \
    "  local bm, bs = string.match(b, '^(%d+)-(%d+)$')\n"                     \
    "  if #am ~= #bm then return #am < #bm end\n"                             \
    "  if am ~= bm then return am < bm end\n"                                 \
    "  if #as ~= #bs then return #as < #bs end\n"                             \
    "  return as < bs\n"                                                      \
    "end\n"                                                                   \
                                                                              \
    /* room for n more: trims, but nothing that a group has not acknowledged; \
     * returns the length then, the group that held most, or an error */      \
    "local function room(len, n, limit)\n"                                    \
    "  local excess, held = math.min(len + n - limit, len), ''\n"             \
    "  local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])\n"              \
    "  if groups.err then return len, held, groups.err end\n"                 \
    "  local safe\n"                                                          \
    "  for _, g in ipairs(groups) do\n"                                       \
    "    local f = {}\n"                                                      \
    "    for i = 1, #g, 2 do f[g[i]] = g[i + 1] end\n"                        \
    "    local keep\n"                                                        \
    "    if f['pending'] > 0 then\n"                                          \
    "      local p = redis.pcall('XPENDING', KEYS[1], f['name'])\n"           \
    "      if p.err then return len, held, p.err end\n"                       \
    "      keep = p[2]\n"                                                     \
    "    else\n"                                                              \
    "      local ms, seq = string.match(f['last-delivered-id'], "             \
               "'^(%d+)-(%d+)$')\n"                                           \
    "      seq = tonumber(seq)\n"                                             \
    "      if seq < 2^53 then seq = seq + 1 end\n"                            \
    "      keep = ms .. '-' .. string.format('%.0f', seq)\n"                  \
    "    end\n"                                                               \
    "    if not safe or before(keep, safe) then\n"                            \
    "      safe, held = keep, f['name']\n"                                    \
    "    end\n"                                                               \
    "  end\n"                                                                 \
    "  local r\n"                                                             \
    "  if not safe then\n"                                                    \
    "    r = redis.pcall('XTRIM', KEYS[1], 'MAXLEN', '=', "                   \
             "string.format('%.0f', len - excess))\n"                         \
    "    if type(r) == 'table' then return len, held, r.err end\n"            \
    "  else\n"                                                                \
                                                                              \
    /* whole nodes first, then the few entries of the one that is cut */      \
    "    r = redis.pcall('XTRIM', KEYS[1], 'MINID', '~', safe, "              \
             "'LIMIT', string.format('%.0f', excess))\n"                      \
    "    if type(r) == 'table' then return len, held, r.err end\n"            \
    "    excess = excess - r\n"                                               \
    "    if excess > 0 then\n"                                                \
    "      r = redis.pcall('XRANGE', KEYS[1], '-', safe, 'COUNT', "           \
               "string.format('%.0f', math.min(excess, 1000) + 1))\n"         \
    "      if r.err then return len, held, r.err end\n"                       \
    "      local cut = safe\n"                                                \
    "      if #r == math.min(excess, 1000) + 1 and before(r[#r][1], safe) "   \
               "then cut = r[#r][1] end\n"                                    \
    "      r = redis.pcall('XTRIM', KEYS[1], 'MINID', '=', cut)\n"            \
    "      if type(r) == 'table' then return len, held, r.err end\n"          \
    "    end\n"                                                               \
    "  end\n"                                                                 \
    "  return redis.call('XLEN', KEYS[1]), held\n"                            \
    "end\n"                                                                   \
                                                                              \
    /* trim, entries at most: behind what was added by other means */         \
    "if ARGV[1] == 'trim' then\n"                                             \
    "  local len, limit = redis.call('XLEN', KEYS[1]), tonumber(ARGV[2])\n"   \
    "  local held, err = ''\n"                                                \
    "  if len > limit then len, held, err = room(len, 0, limit) end\n"        \
    "  if err then return {'error', '', err} end\n"                           \
    "  return {'ok', '', held, len, 0}\n"                                     \
    "end\n"                                                                   \
                                                                              \
    /* add, expected watermark, sequence to move it to, entries at most, bytes\
     * at most (0: not looked at now), number of records; then the records:   \
     * head, name, value, name, value ...; "try" for "add": records that are  \
     * refused are passed over where one behind them goes in, and named */    \
    "if w ~= ARGV[2] then return {'stale', w or ''} end\n"                    \
    "local n, limit, bytes = tonumber(ARGV[6]), tonumber(ARGV[4]), "          \
        "tonumber(ARGV[5])\n"                                                 \
    "local len = redis.pcall('XLEN', KEYS[1])\n"                              \
    "if type(len) == 'table' then return {'error', w, len.err} end\n"         \
    "local mem, held = 0, ''\n"                                               \
    "if limit == 0 then limit = 2^53 end\n"                                   \
    "if bytes > 0 then\n"                                                     \
    "  mem = redis.pcall('MEMORY', 'USAGE', KEYS[1], 'SAMPLES', '20')\n"      \
    "  if type(mem) == 'table' then mem = -1 end\n"                           \
    "  if type(mem) ~= 'number' then mem = 0 end\n"                           \
    "  if mem > bytes and len > 0 then\n"                                     \
    "    limit = math.min(limit, "                                            \
             "math.max(1, math.floor(len * (bytes / mem))))\n"                \
    "  end\n"                                                                 \
    "end\n"                                                                   \
                                                                              \
    "if len + n > limit and len > 0 then\n"                                   \
    "  local err\n"                                                           \
    "  len, held, err = room(len, n, limit)\n"                                \
    "  if err then return {'error', w, err} end\n"                            \
    "end\n"                                                                   \
    /* may it be moved afterwards? nothing takes an XADD back */              \
    "if n > 0 then\n"                                                         \
    "  local r = redis.pcall('SET', KEYS[2], w)\n"                            \
    "  if r.err then return {'error', w, r.err} end\n"                        \
    "end\n"                                                                   \
                                                                              \
    "local function seq(i)\n"                                                 \
    "  return string.format('%.0f', (struct.unpack('<I8', ARGV[i], 17)))\n"   \
    "end\n"                                                                   \
    "local i, done, last, err = 7, 0, nil, nil\n"                             \
    "local bad, some = {}, {}\n"                                              \
    "while done < n and len < limit do\n"                                     \
    "  local f = struct.unpack('<I2', ARGV[i], 33)\n"                         \
    "  local r = redis.pcall('XADD', KEYS[1], '*', "                          \
           "unpack(ARGV, i + 1, i + 2 * f))\n"                                \
    "  if type(r) == 'table' then\n"                                          \
    "    err = r.err\n"                                                       \
    "    if ARGV[1] ~= 'try' or string.sub(err, 1, 4) ~= 'ERR ' then "        \
             "break end\n"                                                    \
    "    some[#some + 1] = seq(i)\n"                                          \
    "  else\n"                                                                \
    "    for _, s in ipairs(some) do bad[#bad + 1] = s end\n"                 \
    "    some, last, len = {}, i, len + 1\n"                                  \
    "  end\n"                                                                 \
    "  done = done + 1\n"                                                     \
    "  i = i + 1 + 2 * f\n"                                                   \
    "end\n"                                                                   \
                                                                              \
    "local all = done == n and #some == 0\n"                                  \
    "if all then\n"                                                           \
    "  w = ARGV[3]\n"                                                         \
    "elseif last then\n"                                                      \
    "  w = seq(last)\n"                                                       \
    "end\n"                                                                   \
    "if w ~= ARGV[2] or n == 0 then\n"                                        \
    "  local r = redis.pcall('SET', KEYS[2], w)\n"                            \
    "  if r.err then return {'error', ARGV[2], r.err} end\n"                  \
    "end\n"                                                                   \
    "if all then return {'ok', w, '', len, mem, bad, err} end\n"              \
    "if err and (#some > 0 or len < limit) then\n"                            \
    "  return {'error', w, err, 'record', 0, bad, err}\n"                     \
    "end\n"                                                                   \
    "return {'full', w, held, 0, 0, bad, err}\n"


static u_char *ngx_lunary_outbox_script_start(u_char *p, ngx_uint_t eval,
    ngx_uint_t args, ngx_lunary_outbox_shard_t *shard);
static ngx_uint_t ngx_lunary_outbox_is_watermark(redisReply *reply);


static const char  ngx_lunary_outbox_lua[] = NGX_LUNARY_OUTBOX_LUA;
static u_char      ngx_lunary_outbox_sha[40];


void
ngx_lunary_outbox_script_init(void)
{
    u_char      digest[20];
    ngx_sha1_t  sha1;

    ngx_sha1_init(&sha1);
    ngx_sha1_update(&sha1, ngx_lunary_outbox_lua,
                    sizeof(ngx_lunary_outbox_lua) - 1);
    ngx_sha1_final(digest, &sha1);

    (void) ngx_hex_dump(ngx_lunary_outbox_sha, digest, sizeof(digest));
}


/* bytes that a call needs before its records */

size_t
ngx_lunary_outbox_script_size(ngx_lunary_outbox_shard_t *shard)
{
    return sizeof(ngx_lunary_outbox_lua) + 512
           + shard->stream.len + shard->key.len
           + NGX_LUNARY_OUTBOX_WATERMARK;
}


u_char *
ngx_lunary_outbox_script_open(u_char *p, ngx_uint_t eval,
    ngx_lunary_outbox_shard_t *shard)
{
    u_char  first[32];
    size_t  len;

    len = ngx_snprintf(first, sizeof(first), "0-%08xD%08xD%08xD",
                       (uint32_t) ngx_random(), (uint32_t) ngx_random(),
                       (uint32_t) (ngx_pid ^ ngx_random()))
          - first;

    p = ngx_lunary_outbox_script_start(p, eval, 2, shard);
    p = ngx_lunary_outbox_bulk(p, "open", 4);
    p = ngx_lunary_outbox_bulk(p, first, len);

    return p;
}


u_char *
ngx_lunary_outbox_script_add(u_char *p, ngx_uint_t eval,
    ngx_lunary_outbox_shard_t *shard, ngx_lunary_outbox_batch_t *b,
    ngx_uint_t limit, size_t maxbytes)
{
    p = ngx_lunary_outbox_script_start(p, eval, 6 + b->args, shard);
    p = ngx_lunary_outbox_bulk(p, shard->trying ? "try" : "add", 3);
    p = ngx_lunary_outbox_bulk(p, shard->watermark, shard->watermark_len);
    p = ngx_lunary_outbox_bulk_decimal(p, b->last_seq);
    p = ngx_lunary_outbox_bulk_decimal(p, limit);
    p = ngx_lunary_outbox_bulk_decimal(p, maxbytes);
    p = ngx_lunary_outbox_bulk_decimal(p, b->count);

    return p;
}


u_char *
ngx_lunary_outbox_script_trim(u_char *p, ngx_lunary_outbox_shard_t *shard,
    ngx_uint_t limit)
{
    p = ngx_lunary_outbox_script_start(p, 0, 2, shard);
    p = ngx_lunary_outbox_bulk(p, "trim", 4);
    p = ngx_lunary_outbox_bulk_decimal(p, limit);

    return p;
}


static u_char *
ngx_lunary_outbox_script_start(u_char *p, ngx_uint_t eval, ngx_uint_t args,
    ngx_lunary_outbox_shard_t *shard)
{
    *p++ = '*';
    p = ngx_lunary_outbox_decimal(p, 5 + args);
    *p++ = CR;
    *p++ = LF;

    if (eval) {
        p = ngx_lunary_outbox_bulk(p, "EVAL", 4);
        p = ngx_lunary_outbox_bulk(p, ngx_lunary_outbox_lua,
                                   sizeof(ngx_lunary_outbox_lua) - 1);

    } else {
        p = ngx_lunary_outbox_bulk(p, "EVALSHA", 7);
        p = ngx_lunary_outbox_bulk(p, ngx_lunary_outbox_sha, 40);
    }

    p = ngx_lunary_outbox_bulk(p, "2", 1);
    p = ngx_lunary_outbox_bulk(p, shard->stream.data, shard->stream.len);
    p = ngx_lunary_outbox_bulk(p, shard->key.data, shard->key.len);

    return p;
}


u_char *
ngx_lunary_outbox_bulk(u_char *p, const void *data, size_t len)
{
    *p++ = '$';
    p = ngx_lunary_outbox_decimal(p, len);
    *p++ = CR;
    *p++ = LF;

    p = ngx_cpymem(p, data, len);

    *p++ = CR;
    *p++ = LF;

    return p;
}


u_char *
ngx_lunary_outbox_bulk_decimal(u_char *p, uint64_t n)
{
    u_char  text[NGX_INT64_LEN];

    return ngx_lunary_outbox_bulk(p, text,
                                  ngx_lunary_outbox_decimal(text, n) - text);
}


u_char *
ngx_lunary_outbox_decimal(u_char *p, uint64_t n)
{
    u_char   text[NGX_INT64_LEN], *q;

    q = text + sizeof(text);

    do {
        *--q = (u_char) ('0' + n % 10);
        n /= 10;
    } while (n);

    return ngx_cpymem(p, q, text + sizeof(text) - q);
}


void
ngx_lunary_outbox_script_reply(ngx_lunary_outbox_batch_t *b,
    redisReply *reply)
{
    redisReply  **e, *text;

    b->watermark_len = 0;
    b->text_len = 0;
    b->length = -1;
    b->memory = 0;

    if (reply == NULL) {
        b->result = NGX_LUNARY_OUTBOX_LOST;
        return;
    }

    if (reply->type == REDIS_REPLY_STATUS) {

        /* queued: see ngx_lunary_outbox_multi_stuck() */

        b->result = NGX_LUNARY_OUTBOX_LOST;
        return;
    }

    b->result = NGX_LUNARY_OUTBOX_ERROR;
    b->blame = NGX_LUNARY_OUTBOX_BLAME_BATCH;
    text = reply;

    if (reply->type == REDIS_REPLY_ARRAY
        && reply->elements >= 2
        && reply->element[0]->type == REDIS_REPLY_STRING
        && reply->element[1]->type == REDIS_REPLY_STRING)
    {
        e = reply->element;

        /* what is none counts as missing, and is opened anew: it could not be
         * told to a batch as it is */

        if (ngx_lunary_outbox_is_watermark(e[1])) {
            b->watermark_len = ngx_lunary_outbox_copy(b->watermark,
                                          NGX_LUNARY_OUTBOX_WATERMARK, e[1]);
        }

        text = (reply->elements >= 3) ? e[2] : NULL;

        if (ngx_strcmp(e[0]->str, "ok") == 0) {
            b->result = NGX_LUNARY_OUTBOX_OK;
            b->replaced = (text && text->type == REDIS_REPLY_STRING
                           && ngx_strcmp(text->str, "replaced") == 0);
            b->created = b->replaced
                         || (text && text->type == REDIS_REPLY_STRING
                             && ngx_strcmp(text->str, "created") == 0);

            if (reply->elements >= 5
                && e[3]->type == REDIS_REPLY_INTEGER
                && e[4]->type == REDIS_REPLY_INTEGER)
            {
                b->length = e[3]->integer;
                b->memory = e[4]->integer;
            }

            return;
        }

        if (ngx_strcmp(e[0]->str, "stale") == 0) {
            b->result = NGX_LUNARY_OUTBOX_STALE;
            return;
        }

        if (ngx_strcmp(e[0]->str, "full") == 0) {
            b->result = NGX_LUNARY_OUTBOX_FULL;
        }

        b->blame = (reply->elements >= 4) ? NGX_LUNARY_OUTBOX_BLAME_RECORD
                                          : NGX_LUNARY_OUTBOX_BLAME_NOBODY;
    }

    if (text && (text->type == REDIS_REPLY_STRING
                 || text->type == REDIS_REPLY_ERROR))
    {
        b->text_len = ngx_lunary_outbox_copy(b->text, sizeof(b->text), text);
        b->error = ngx_lunary_redis_error(text);

        if (b->text_len >= 8 && ngx_strncmp(b->text, "NOSCRIPT", 8) == 0) {
            b->result = NGX_LUNARY_OUTBOX_NOSCRIPT;
        }

    } else {
        b->error = NGX_LUNARY_REDIS_OTHER;
    }
}


/* "17", "0-<random>", or "~<length>~" and one of them */

static ngx_uint_t
ngx_lunary_outbox_is_watermark(redisReply *reply)
{
    u_char      *p, *last;
    ngx_uint_t   hex;

    p = (u_char *) reply->str;
    last = p + reply->len;

    if (reply->len >= NGX_LUNARY_OUTBOX_WATERMARK) {
        return 0;
    }

    if (p < last && *p == '~') {

        do {
            p++;
        } while (p < last && *p >= '0' && *p <= '9');

        if (p == last || *p++ != '~') {
            return 0;
        }
    }

    hex = (last - p > 2 && p[0] == '0' && p[1] == '-');

    if (hex) {
        p += 2;
    }

    if (p == last) {
        return 0;
    }

    while (p < last) {

        if ((*p < '0' || *p > '9')
            && !(hex && (*p | 0x20) >= 'a' && (*p | 0x20) <= 'f'))
        {
            return 0;
        }

        p++;
    }

    return 1;
}


size_t
ngx_lunary_outbox_copy(u_char *dst, size_t size, redisReply *reply)
{
    size_t  i, len;

    len = ngx_min((size_t) reply->len, size);

    for (i = 0; i < len; i++) {

        /* it may go into the log */
        dst[i] = (reply->str[i] >= ' ' && reply->str[i] < 0x7f)
                 ? (u_char) reply->str[i] : '?';
    }

    return len;
}
