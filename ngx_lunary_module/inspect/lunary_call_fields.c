/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What dialects tell of an answer: text, tools, media, reasons, ids.  Each
 * function takes values as they stand in the wire's JSON and keeps what is
 * worth keeping, bounded and mended; a failed allocation loses the one value
 * and nothing else.
 */

#include "lunary_call_internal.h"
#include "lunary_simd.h"


/* decodes a string into b, bounded */

void
lunary_call_keep(lunary_call_t *call, lunary_buf_t *b, lunary_str_t value,
    size_t max)
{
    lunary_str_t    inside;
    lunary_priv_t  *priv;

    priv = lunary_priv(call);

    if (priv->torn != NULL && value.data + value.len == priv->torn) {

        /* it broke off: half a name is none */

        return;
    }

    inside = lunary_json_inside(value);

    if (inside.len > max) {
        inside.len = lunary_inside_floor(inside, max);
    }

    b->len = 0;

    if (inside.len == 0) {
        return;
    }

    if (lunary_simd_text(inside.data, inside.data + inside.len)
        == inside.data + inside.len)
    {
        (void) lunary_buf_append(call->mem, b, inside.data, inside.len);
        return;
    }

    (void) lunary_json_unescape(call->mem, b, inside);
}


const unsigned char *
lunary_call_last(lunary_str_t text)
{
    while (text.len != 0 && text.data[text.len - 1] != '"') {
        text.len--;
    }

    return text.data + text.len;
}


lunary_choice_t *
lunary_call_choice(lunary_call_t *call, int64_t index)
{
    return lunary_output_choice(&lunary_priv(call)->out, index);
}


static inline void
lunary_call_add(lunary_call_t *call, lunary_text_t *t, lunary_str_t inside)
{
    lunary_priv_t    *priv;
    lunary_output_t  *o;

    priv = lunary_priv(call);
    o = &priv->out;

    priv->changes++;
    priv->added_to = t;
    priv->added = inside;

    if (lunary_text_append(call->mem, &o->budget, t, inside) != LUNARY_OK) {
        o->nomem = 1;
    }
}


void
lunary_call_again(lunary_call_t *call, lunary_text_t *t, lunary_str_t inside)
{
    call->content = 1;
    lunary_call_add(call, t, inside);
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
lunary_call_transcript(lunary_call_t *call, lunary_choice_t *ch,
    lunary_str_t inside)
{
    if (inside.len == 0) {
        return;
    }

    call->content = 1;

    if (ch != NULL) {
        lunary_call_add(call, &ch->transcript, inside);
    }
}


void
lunary_call_plan(lunary_call_t *call, lunary_choice_t *ch,
    lunary_str_t inside)
{
    if (inside.len == 0) {
        return;
    }

    call->content = 1;

    if (ch != NULL) {
        lunary_call_add(call, &ch->plan, inside);
    }
}


void
lunary_call_part(lunary_call_t *call, lunary_choice_t *ch,
    lunary_str_t part)
{
    call->content = 1;
    lunary_priv(call)->changes += 2;

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
    lunary_priv(call)->changes += 2;

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

    lunary_priv(call)->changes += 2;

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
    lunary_priv(call)->changes += 2;

    if (ch == NULL) {
        return NULL;
    }

    return lunary_output_tool_new(&lunary_priv(call)->out, ch, index);
}


lunary_str_t
lunary_call_id(lunary_str_t value)
{
    return lunary_json_type(value) == LUNARY_JSON_NUMBER
           ? value : lunary_json_inside(value);
}


void
lunary_call_tool_id(lunary_call_t *call, lunary_tool_t *t,
    lunary_str_t value)
{
    if (t != NULL && t->id.len == 0) {
        lunary_output_small(&lunary_priv(call)->out, &t->id,
                            lunary_call_id(value));
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

    lunary_priv(call)->changes += 2;

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
    lunary_priv(call)->changes += 2;

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

    if (priv->response_id.len != 0) {
        return;
    }

    if (lunary_json_type(value) == LUNARY_JSON_NUMBER) {

        if (value.len <= 20) {
            (void) lunary_buf_append(call->mem, &priv->response_id,
                                     value.data, value.len);
        }

        return;
    }

    if (lunary_json_inside(value).len != 0) {
        lunary_call_keep(call, &priv->response_id, value, LUNARY_CALL_MODEL);
    }
}
