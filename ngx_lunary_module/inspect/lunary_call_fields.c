/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What dialects tell of a call: the small functions behind
 * lunary_call_internal.h.  Each takes values as they stand in the wire's JSON
 * and keeps what is worth keeping, bounded and mended; a failed allocation
 * loses the one value and nothing else.
 */

#include "lunary_call_internal.h"
#include "lunary_walk.h"


static int lunary_call_is_identity(lunary_str_t key);
static void lunary_call_keep(lunary_call_t *call, lunary_buf_t *b,
    lunary_str_t value, size_t max);
static void lunary_call_details(lunary_tokens_t *t, lunary_walk_t *w);
static lunary_str_t lunary_call_first(lunary_str_t v);


/* top-level members that say who calls: no parameters of the model */

static const lunary_str_t  lunary_identity[] = {
    lunary_string("user"),
    lunary_string("tags"),
    lunary_string("userId"),
    lunary_string("user_id"),
    lunary_string("threadId"),
    lunary_string("metadata"),
    lunary_string("userProps"),
    lunary_string("thread_id"),
    lunary_string("user_props"),
    lunary_string("templateId"),
    lunary_string("parentRunId"),
    lunary_string("parent_run_id"),
    lunary_string("safety_identifier")
};

#define LUNARY_IDENTITY_N  (sizeof(lunary_identity) / sizeof(lunary_str_t))


/* decodes a string into b, bounded */

static void
lunary_call_keep(lunary_call_t *call, lunary_buf_t *b, lunary_str_t value,
    size_t max)
{
    lunary_str_t  inside;

    inside = lunary_json_inside(value);

    if (inside.len > max) {
        inside.len = lunary_inside_floor(inside, max);
    }

    b->len = 0;

    (void) lunary_json_unescape(call->mem, b, inside);
}


void
lunary_call_model(lunary_call_t *call, lunary_str_t value)
{
    lunary_priv_t  *priv;

    priv = lunary_priv(call);

    if (lunary_json_inside(value).len == 0) {
        return;
    }

    lunary_call_keep(call, &priv->model, value, LUNARY_CALL_MODEL);

    call->model = lunary_buf_str(&priv->model);
}


void
lunary_call_model_bytes(lunary_call_t *call, lunary_str_t bytes)
{
    lunary_priv_t  *priv;

    priv = lunary_priv(call);

    if (bytes.len == 0 || bytes.len > LUNARY_CALL_MODEL
        || !lunary_utf8_valid(bytes))
    {
        return;
    }

    priv->model.len = 0;

    (void) lunary_buf_append(call->mem, &priv->model, bytes.data, bytes.len);

    call->model = lunary_buf_str(&priv->model);
}


void
lunary_call_stream(lunary_call_t *call, lunary_str_t value)
{
    if (lunary_json_is_true(value) || lunary_value_is(value, "true")) {
        call->stream = 1;

    } else if (lunary_json_is_false(value)
               || lunary_value_is(value, "false"))
    {
        call->stream = 0;
    }
}


void
lunary_call_input(lunary_call_t *call, lunary_str_t value, lunary_str_t key)
{
    lunary_priv_t  *priv;

    priv = lunary_priv(call);

    if (value.len == 0) {
        return;
    }

    priv->input_size = value.len;

    if (priv->rq != NULL) {
        priv->input_size += lunary_doc_removed_of(lunary_request_doc(priv->rq),
                                                  key);
    }

    if (lunary_call_wants_input(call)) {
        priv->input = value;
    }
}


void
lunary_call_input_built(lunary_call_t *call, lunary_str_t key)
{
    lunary_priv_t  *priv;

    priv = lunary_priv(call);

    lunary_call_input(call, lunary_buf_str(&priv->input_buf), key);

    if (!lunary_call_wants_input(call)) {
        lunary_buf_free(call->mem, &priv->input_buf);
    }
}


static int
lunary_call_is_identity(lunary_str_t key)
{
    size_t  i;

    /* their lengths; most names have another */

    if (key.len > 17 || !(0x22fd0u >> key.len & 1)) {
        return 0;
    }

    for (i = 0; i < LUNARY_IDENTITY_N; i++) {
        if (key.len == lunary_identity[i].len
            && memcmp(key.data, lunary_identity[i].data, key.len) == 0)
        {
            return 1;
        }
    }

    return 0;
}


void
lunary_call_params(lunary_call_t *call, lunary_str_t obj,
    const lunary_str_t *but, lunary_str_t *vals, size_t n)
{
    size_t          i, len;
    lunary_str_t    key, value;
    lunary_buf_t   *b;
    lunary_mem_t   *mem;
    lunary_walk_t   w;
    lunary_priv_t  *priv;

    priv = lunary_priv(call);
    b = &priv->params;
    mem = call->mem;

    b->len = 0;
    priv->members_read = 1;

    for (i = 0; vals != NULL && i < n; i++) {
        vals[i] = lunary_str(NULL, 0);
    }

    lunary_walk_start(&w, obj);

    if (!lunary_walk_object(&w)) {
        return;
    }

    while (lunary_walk_key(&w, &key)) {

        value = lunary_walk_value(&w);

        if (value.len == 0) {
            break;
        }

        for (i = 0; i < n; i++) {
            if (key.len == but[i].len
                && memcmp(key.data, but[i].data, key.len) == 0)
            {
                break;
            }
        }

        if (i != n) {

            if (vals != NULL) {
                vals[i] = value;
            }

            continue;
        }

        if (lunary_call_is_identity(key)) {

            if (lunary_eq(key, "metadata")) {
                priv->metadata_value = value;
            }

            continue;
        }

        len = b->len;

        if (lunary_buf_reserve(mem, b, key.len + value.len + 5) != LUNARY_OK)
        {
            break;
        }

        b->data[b->len++] = (len == 0) ? '{' : ',';
        b->data[b->len++] = '"';

        memcpy(b->data + b->len, key.data, key.len);
        b->len += key.len;

        b->data[b->len++] = '"';
        b->data[b->len++] = ':';

        memcpy(b->data + b->len, value.data, value.len);
        b->len += value.len;
    }

    if (b->len != 0 && lunary_buf_lit(mem, b, "}") != LUNARY_OK) {
        b->len = 0;
    }
}


void
lunary_call_metadata(lunary_call_t *call, lunary_str_t obj)
{
    size_t               len;
    lunary_str_t         key, value;
    lunary_buf_t        *b;
    lunary_mem_t        *mem;
    lunary_json_iter_t   it;

    b = &lunary_priv(call)->metadata;
    mem = call->mem;

    b->len = 0;

    if (!lunary_json_is_object(obj)) {
        return;
    }

    lunary_json_iter(&it, obj);

    while (lunary_json_member(&it, &key, &value)) {

        if (lunary_call_is_identity(key)) {
            continue;
        }

        len = b->len;

        if ((len == 0 ? lunary_buf_lit(mem, b, "{\"")
                      : lunary_buf_lit(mem, b, ",\"")) != LUNARY_OK
            || lunary_buf_append(mem, b, key.data, key.len) != LUNARY_OK
            || lunary_buf_lit(mem, b, "\":") != LUNARY_OK
            || lunary_buf_append(mem, b, value.data, value.len) != LUNARY_OK)
        {
            b->len = len;
            break;
        }
    }

    if (b->len != 0 && lunary_buf_lit(mem, b, "}") != LUNARY_OK) {
        b->len = 0;
    }
}


lunary_str_t
lunary_call_path(lunary_call_t *call, const char *name, const char *stops)
{
    size_t                len;
    lunary_str_t          path, found;
    const unsigned char  *p, *end;

    path = lunary_priv(call)->path;
    found = lunary_str(NULL, 0);
    len = strlen(name);

    if (path.len < len) {
        return found;
    }

    end = path.data + path.len;

    for (p = path.data; (size_t) (end - p) >= len; p++) {
        if (memcmp(p, name, len) == 0) {
            found = lunary_str(p + len, (size_t) (end - p) - len);
        }
    }

    for (p = found.data; p != NULL && p < end; p++) {
        if (strchr(stops, *p) != NULL && *p != '\0') {
            found.len = (size_t) (p - found.data);
            break;
        }
    }

    return found;
}


int
lunary_call_path_ends(lunary_call_t *call, const char *s)
{
    size_t        len;
    lunary_str_t  path;

    path = lunary_priv(call)->path;
    len = strlen(s);

    return path.len >= len
           && memcmp(path.data + path.len - len, s, len) == 0;
}


lunary_choice_t *
lunary_call_choice(lunary_call_t *call, int64_t index)
{
    return lunary_output_choice(&lunary_priv(call)->out, index);
}


static inline void
lunary_call_add(lunary_call_t *call, lunary_text_t *t, lunary_str_t inside)
{
    lunary_output_t  *o;

    o = &lunary_priv(call)->out;

    if (lunary_text_append(call->mem, &o->budget, t, inside) != LUNARY_OK) {
        o->nomem = 1;
    }
}


void
lunary_call_text(lunary_call_t *call, lunary_choice_t *ch,
    lunary_str_t inside)
{
    if (inside.len == 0) {
        return;
    }

    call->content = 1;

    if (ch != NULL) {
        lunary_call_add(call, &ch->text, inside);
    }
}


void
lunary_call_reasoning(lunary_call_t *call, lunary_choice_t *ch,
    lunary_str_t inside)
{
    if (inside.len == 0) {
        return;
    }

    call->content = 1;

    if (ch != NULL) {
        lunary_call_add(call, &ch->reasoning, inside);
    }
}


void
lunary_call_refusal(lunary_call_t *call, lunary_choice_t *ch,
    lunary_str_t inside)
{
    if (inside.len == 0) {
        return;
    }

    call->content = 1;

    if (ch != NULL) {
        lunary_call_add(call, &ch->refusal, inside);
    }
}


void
lunary_call_part(lunary_call_t *call, lunary_choice_t *ch,
    lunary_str_t part)
{
    call->content = 1;

    if (ch != NULL && lunary_json_valid(part, LUNARY_DOC_DEPTH)) {
        lunary_output_part(&lunary_priv(call)->out, ch, part);
    }
}


void
lunary_call_raw(lunary_call_t *call, lunary_choice_t *ch, lunary_str_t value)
{
    lunary_output_t  *o;

    o = &lunary_priv(call)->out;

    call->content = 1;

    if (ch == NULL || ch->raw.len != 0 || o->budget.off
        || value.len > LUNARY_OUTPUT_PARTS
        || !lunary_json_valid(value, LUNARY_DOC_DEPTH))
    {
        return;
    }

    (void) lunary_buf_append(call->mem, &ch->raw, value.data, value.len);
}


void
lunary_call_media(lunary_call_t *call, lunary_choice_t *ch,
    lunary_str_t type, lunary_str_t base64)
{
    int            rc;
    lunary_buf_t  *b;
    lunary_mem_t  *mem;

    call->content = 1;

    b = &lunary_priv(call)->scratch;
    mem = call->mem;

    b->len = 0;

    rc = lunary_buf_lit(mem, b, "{\"type\":\"image_url\",\"image_url\":"
                        "{\"url\":\"data:");

    if (rc == LUNARY_OK && type.len <= 128) {
        rc = lunary_inside_copy(mem, b, type);
    }

    if (rc == LUNARY_OK) {
        rc = lunary_buf_lit(mem, b, ";base64,");
    }

    /* a document may have replaced the bytes by their number already */

    if (rc == LUNARY_OK && base64.len != 0 && base64.len < 64
        && base64.data[0] == '[')
    {
        rc = lunary_inside_copy(mem, b, base64);

    } else if (rc == LUNARY_OK) {
        rc = lunary_buf_lit(mem, b, "[");

        if (rc == LUNARY_OK) {
            rc = lunary_buf_append_int(mem, b, (int64_t) base64.len);
        }

        if (rc == LUNARY_OK) {
            rc = lunary_buf_lit(mem, b, " bytes]");
        }
    }

    if (rc == LUNARY_OK) {
        rc = lunary_buf_lit(mem, b, "\"}}");
    }

    if (rc == LUNARY_OK) {
        lunary_call_part(call, ch, lunary_buf_str(b));
    }
}


void
lunary_call_image_url(lunary_call_t *call, lunary_choice_t *ch,
    lunary_str_t url)
{
    size_t         comma;
    lunary_buf_t  *b;
    lunary_mem_t  *mem;
    lunary_str_t   type;

    url = lunary_json_inside(url);

    if (url.len == 0) {
        return;
    }

    if (url.len > 5 && memcmp(url.data, "data:", 5) == 0) {

        for (comma = 5; comma < url.len && comma < 200; comma++) {
            if (url.data[comma] == ',') {
                break;
            }
        }

        type = lunary_str(url.data + 5, comma - 5);

        if (type.len > 7
            && memcmp(type.data + type.len - 7, ";base64", 7) == 0)
        {
            type.len -= 7;
        }

        comma += (comma < url.len);

        lunary_call_media(call, ch, type, lunary_str(url.data + comma,
                                                     url.len - comma));
        return;
    }

    b = &lunary_priv(call)->scratch;
    mem = call->mem;

    b->len = 0;

    if (url.len > 2048
        || lunary_buf_lit(mem, b, "{\"type\":\"image_url\",\"image_url\":"
                          "{\"url\":\"") != LUNARY_OK
        || lunary_inside_copy(mem, b, url) != LUNARY_OK
        || lunary_buf_lit(mem, b, "\"}}") != LUNARY_OK)
    {
        return;
    }

    lunary_call_part(call, ch, lunary_buf_str(b));
}


lunary_tool_t *
lunary_call_tool(lunary_call_t *call, lunary_choice_t *ch, int64_t index)
{
    lunary_tool_t  *t;

    if (ch == NULL) {
        return NULL;
    }

    t = lunary_output_tool(ch, index);

    return t != NULL ? t : lunary_call_tool_new(call, ch, index);
}


lunary_tool_t *
lunary_call_tool_new(lunary_call_t *call, lunary_choice_t *ch, int64_t index)
{
    call->content = 1;

    if (ch == NULL) {
        return NULL;
    }

    return lunary_output_tool_new(&lunary_priv(call)->out, ch, index);
}


void
lunary_call_tool_id(lunary_call_t *call, lunary_tool_t *t,
    lunary_str_t value)
{
    if (t != NULL && t->id.len == 0) {
        lunary_output_small(&lunary_priv(call)->out, &t->id,
                            lunary_json_inside(value));
    }
}


void
lunary_call_tool_name(lunary_call_t *call, lunary_tool_t *t,
    lunary_str_t value)
{
    lunary_str_t  inside;

    inside = lunary_json_inside(value);

    if (t == NULL || inside.len == 0
        || (t->name.len == inside.len
            && memcmp(t->name.data, inside.data, inside.len) == 0))
    {
        return;
    }

    lunary_output_small(&lunary_priv(call)->out, &t->name, inside);
}


void
lunary_call_tool_args(lunary_call_t *call, lunary_tool_t *t,
    lunary_str_t value)
{
    if (lunary_json_is_object(value) || lunary_json_is_array(value)) {
        lunary_call_tool_value(call, t, value);
        return;
    }

    if (lunary_json_inside(value).len == 0) {
        return;
    }

    call->content = 1;

    if (t != NULL) {
        lunary_call_add(call, &t->args, lunary_json_inside(value));
    }
}


void
lunary_call_tool_value(lunary_call_t *call, lunary_tool_t *t,
    lunary_str_t value)
{
    call->content = 1;

    if (t != NULL && value.len != 0) {
        lunary_output_tool_value(&lunary_priv(call)->out, t, value);
    }
}


void
lunary_call_finish_reason(lunary_call_t *call, lunary_choice_t *ch,
    lunary_str_t value)
{
    if (ch == NULL) {
        return;
    }

    if (lunary_json_type(value) == LUNARY_JSON_NUMBER) {

        if (value.len <= 20) {
            ch->finish_reason.len = 0;
            (void) lunary_buf_append(call->mem, &ch->finish_reason,
                                     value.data, value.len);
        }

        return;
    }

    if (lunary_json_inside(value).len != 0) {
        lunary_call_keep(call, &ch->finish_reason, value, 128);
    }
}


void
lunary_call_status(lunary_call_t *call, lunary_str_t value)
{
    if (lunary_json_inside(value).len != 0) {
        lunary_call_keep(call, &lunary_priv(call)->status_text, value, 128);
    }
}


void
lunary_call_response_model(lunary_call_t *call, lunary_str_t value, int over)
{
    lunary_str_t   inside;
    lunary_priv_t  *priv;

    priv = lunary_priv(call);

    if (priv->response_model.len != 0) {

        if (!over) {
            return;
        }

        inside = lunary_json_inside(value);

        if (inside.len == priv->response_model.len
            && memcmp(inside.data, priv->response_model.data, inside.len)
               == 0)
        {
            return;
        }
    }

    if (lunary_json_inside(value).len != 0) {
        lunary_call_keep(call, &priv->response_model, value,
                         LUNARY_CALL_MODEL);
    }
}


void
lunary_call_response_id(lunary_call_t *call, lunary_str_t value)
{
    lunary_priv_t  *priv;

    priv = lunary_priv(call);

    if (priv->response_id.len == 0 && lunary_json_inside(value).len != 0) {
        lunary_call_keep(call, &priv->response_id, value, LUNARY_CALL_MODEL);
    }
}


void
lunary_call_usage(lunary_call_t *call, lunary_str_t value)
{
    size_t         len;
    lunary_buf_t  *b;

    if (!lunary_json_is_object(value) || value.len > LUNARY_CALL_USAGE) {
        return;
    }

    b = &lunary_priv(call)->usage;
    len = b->len;
    b->len = 0;

    if (lunary_buf_append(call->mem, b, value.data, value.len) != LUNARY_OK) {
        b->len = len;
    }
}


void
lunary_call_count(int64_t *slot, lunary_str_t value)
{
    size_t   i;
    int64_t  n;

    if (value.len != 0 && value.len < 16) {

        /* nearly always plain digits */

        for (i = 0, n = 0; i < value.len; i++) {
            if (value.data[i] < '0' || value.data[i] > '9') {
                break;
            }

            n = n * 10 + (value.data[i] - '0');
        }

        if (i == value.len && (i == 1 || value.data[0] != '0')) {
            *slot = n;
            return;
        }
    }

    if (value.len != 0 && lunary_json_int(value, &n) && n >= 0) {
        *slot = n;
    }
}


void
lunary_call_usage_openai(lunary_call_t *call, lunary_str_t usage)
{
    lunary_str_t      key, v, input, output, hit, cached, reasoning;
    lunary_walk_t     w;
    lunary_tokens_t  *t;

    lunary_walk_start(&w, usage);

    if (!lunary_walk_object(&w)) {
        return;
    }

    lunary_call_usage(call, usage);

    t = &call->tokens;

    input = lunary_str(NULL, 0);
    output = hit = cached = reasoning = input;

    while (lunary_walk_key(&w, &key)) {

        if ((key.len == 21 && lunary_eq(key, "prompt_tokens_details"))
            || (key.len == 25 && lunary_eq(key, "completion_tokens_details")))
        {
            if (lunary_walk_object(&w)) {
                lunary_call_details(t, &w);
                continue;
            }
        }

        v = lunary_walk_value(&w);

        switch (key.len) {

        case 12:
            if (lunary_eq(key, "total_tokens")) {
                lunary_call_count(&t->total, v);

            } else if (lunary_eq(key, "input_tokens")) {
                input = v;
            }

            break;

        case 13:
            if (lunary_eq(key, "prompt_tokens")) {
                lunary_call_count(&t->prompt, v);

            } else if (lunary_eq(key, "cached_tokens")) {
                cached = v;

            } else if (lunary_eq(key, "output_tokens")) {
                output = v;
            }

            break;

        case 16:
            if (lunary_eq(key, "reasoning_tokens")) {
                reasoning = v;
            }

            break;

        case 17:
            if (lunary_eq(key, "completion_tokens")) {
                lunary_call_count(&t->completion, v);
            }

            break;

        case 23:
            if (lunary_eq(key, "prompt_cache_hit_tokens")) {
                hit = v;
            }

            break;

        default:
            break;
        }
    }

    /* other names for the same, where the first are missing */

    if (t->prompt == LUNARY_UNKNOWN) {
        lunary_call_count(&t->prompt, input);
    }

    if (t->completion == LUNARY_UNKNOWN) {
        lunary_call_count(&t->completion, output);
    }

    if (t->cached == LUNARY_UNKNOWN) {
        lunary_call_count(&t->cached, hit);
    }

    if (t->cached == LUNARY_UNKNOWN) {
        lunary_call_count(&t->cached, cached);
    }

    if (t->reasoning == LUNARY_UNKNOWN) {
        lunary_call_count(&t->reasoning, reasoning);
    }
}


/* w is in prompt_tokens_details or completion_tokens_details */

static void
lunary_call_details(lunary_tokens_t *t, lunary_walk_t *w)
{
    lunary_str_t  key, v;

    while (lunary_walk_key(w, &key)) {

        v = lunary_walk_value(w);

        if (lunary_eq(key, "cached_tokens")) {
            lunary_call_count(&t->cached, v);

        } else if (lunary_eq(key, "reasoning_tokens")) {
            lunary_call_count(&t->reasoning, v);

        } else if (lunary_eq(key, "cache_write_tokens")) {
            lunary_call_count(&t->cache_write, v);
        }
    }
}


void
lunary_call_usage_responses(lunary_call_t *call, lunary_str_t usage)
{
    lunary_str_t      v[5];
    lunary_tokens_t  *t;

    static const lunary_str_t  keys[] = {
        lunary_string("input_tokens"),
        lunary_string("output_tokens"),
        lunary_string("total_tokens"),
        lunary_string("input_tokens_details"),
        lunary_string("output_tokens_details")
    };

    if (!lunary_json_is_object(usage)) {
        return;
    }

    lunary_call_usage(call, usage);

    t = &call->tokens;

    (void) lunary_json_pick(usage, keys, v, 5);

    lunary_call_count(&t->prompt, v[0]);
    lunary_call_count(&t->completion, v[1]);
    lunary_call_count(&t->total, v[2]);
    lunary_call_count(&t->cached, lunary_json_get(v[3], "cached_tokens"));
    lunary_call_count(&t->cache_write,
                      lunary_json_get(v[3], "cache_write_tokens"));
    lunary_call_count(&t->reasoning,
                      lunary_json_get(v[4], "reasoning_tokens"));
}


void
lunary_call_error(lunary_call_t *call, lunary_str_t message,
    lunary_str_t type, lunary_str_t code)
{
    size_t         len;
    lunary_str_t   inside;
    lunary_priv_t  *priv;

    priv = lunary_priv(call);

    call->errored = 1;

    if (priv->has_error) {
        return;
    }

    priv->has_error = 1;

    if (lunary_json_is_string(message)) {
        inside = lunary_json_inside(message);

        if (inside.len > LUNARY_CALL_ERROR) {
            inside.len = lunary_inside_floor(inside, LUNARY_CALL_ERROR);
        }

        (void) lunary_inside_copy(call->mem, &priv->error_message, inside);

    } else if (message.len != 0
               && lunary_json_type(message) != LUNARY_JSON_NULL)
    {
        /* a message that is an object: its JSON is the message */

        if (message.len > LUNARY_CALL_ERROR) {
            message.len = lunary_inside_floor(message, LUNARY_CALL_ERROR);
        }

        (void) lunary_json_escape(call->mem, &priv->error_message, message);
    }

    inside = lunary_json_inside(type);

    if (inside.len > LUNARY_OUTPUT_ID) {
        inside.len = lunary_inside_floor(inside, LUNARY_OUTPUT_ID);
    }

    (void) lunary_inside_copy(call->mem, &priv->error_type, inside);

    if (code.len != 0 && code.len <= LUNARY_OUTPUT_ID
        && lunary_json_type(code) != LUNARY_JSON_NULL
        && lunary_json_valid(code, 8))
    {
        len = priv->error_code.len;

        if (lunary_buf_append(call->mem, &priv->error_code, code.data,
                              code.len) != LUNARY_OK)
        {
            priv->error_code.len = len;
        }
    }
}


/* the first element of an array, or the value itself */

static lunary_str_t
lunary_call_first(lunary_str_t v)
{
    return lunary_json_is_array(v) ? lunary_json_at(v, 0) : v;
}


int
lunary_call_error_of(lunary_call_t *call, lunary_str_t v, int failed)
{
    lunary_str_t   m[10], type, code, message, none;
    lunary_priv_t  *priv;

    static const lunary_str_t  keys[] = {
        lunary_string("error"),              /* 0 */
        lunary_string("errors"),             /* 1 */
        lunary_string("message"),            /* 2 */
        lunary_string("type"),               /* 3 */
        lunary_string("code"),               /* 4 */
        lunary_string("detail"),             /* 5 */
        lunary_string("title"),              /* 6 */
        lunary_string("__type"),             /* 7 */
        lunary_string("Message"),            /* 8 */
        lunary_string("error_type")          /* 9 */
    };

    priv = lunary_priv(call);
    none = lunary_str(NULL, 0);

    /* Google answers streams with [{"error":{}}] */

    v = lunary_call_first(v);

    if (!lunary_json_is_object(v)) {
        return 0;
    }

    (void) lunary_json_pick(v, keys, m, 10);

    if (lunary_json_is_object(m[0])) {

        v = m[0];

        type = lunary_json_get(v, "type");

        if (!lunary_json_is_string(type)) {
            type = lunary_json_get(v, "status");
        }

        if (!lunary_json_is_string(type)) {
            type = lunary_json_get(v, "__type");
        }

        lunary_call_error(call, lunary_json_get(v, "message"), type,
                          lunary_json_get(v, "code"));
        return 1;
    }

    if (lunary_json_inside(m[0]).len != 0) {

        type = lunary_json_is_string(m[9]) ? m[9] : m[3];
        message = (failed && lunary_json_is_string(m[2])) ? m[2] : m[0];

        lunary_call_error(call, message, type, m[4]);
        return 1;
    }

    if (lunary_json_is_array(m[1])) {

        v = lunary_json_at(m[1], 0);

        if (lunary_json_is_object(v)) {
            lunary_call_error(call, lunary_json_get(v, "message"),
                              lunary_json_get(v, "type"),
                              lunary_json_get(v, "code"));
            return 1;
        }

        if (v.len != 0) {
            lunary_call_error(call, v, none, none);
            return 1;
        }
    }

    if (!failed
        && !lunary_value_is(lunary_json_get(v, "object"), "error")
        && !(lunary_value_is(m[3], "error") && m[2].len != 0))
    {
        return 0;
    }

    message = m[2];

    if (lunary_json_type(message) <= LUNARY_JSON_NONE
        || lunary_json_type(message) == LUNARY_JSON_NULL)
    {
        message = m[8].len ? m[8] : m[5].len ? m[5] : m[6];
    }

    type = lunary_json_is_string(m[3]) ? m[3] : m[7];
    code = m[4];

    if (priv->error_type_header.len != 0) {

        /* AWS names the exception in a header (kept with its quotes) */

        type = lunary_buf_str(&priv->error_type_header);
    }

    lunary_call_error(call, message, type, code);

    return 1;
}
