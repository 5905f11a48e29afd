/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The answer while it is assembled.  See lunary_output.h.
 */

#include "lunary_output.h"
#include "lunary_json.h"
#include "lunary_doc.h"


static int lunary_output_escaped(lunary_output_t *o, lunary_tool_t *tool,
    lunary_str_t text);
static void lunary_output_free_tool(lunary_output_t *o, lunary_tool_t *t);
static int lunary_output_message(lunary_output_t *o, lunary_choice_t *ch,
    lunary_buf_t *out, uint64_t *lost);
static int lunary_output_tools(lunary_output_t *o, lunary_choice_t *ch,
    lunary_buf_t *out, uint64_t *lost);
static int lunary_output_text(lunary_output_t *o, lunary_text_t *t,
    lunary_buf_t *out, uint64_t *lost);


#define lunary_output_lit(o, out, lit)                                       \
    (lunary_buf_lit((o)->mem, out, lit) != LUNARY_OK)


void
lunary_output_init(lunary_output_t *o, lunary_mem_t *mem, size_t max,
    int keep)
{
    memset(o, 0, sizeof(lunary_output_t));

    o->mem = mem;
    o->max = max;

    /* a little less than the field: its own brackets need some room */

    o->budget.max = max > 512 ? max - 128 : max - max / 4;
    o->budget.cut = max / 16;
    o->budget.off = (keep == 0);
}


void
lunary_output_free(lunary_output_t *o)
{
    lunary_tool_t    *t;
    lunary_choice_t  *ch;

    while ((ch = o->choices) != NULL) {
        o->choices = ch->next;

        while ((t = ch->tools) != NULL) {
            ch->tools = t->next;
            lunary_output_free_tool(o, t);
        }

        lunary_text_free(o->mem, &o->budget, &ch->text);
        lunary_text_free(o->mem, &o->budget, &ch->reasoning);
        lunary_text_free(o->mem, &o->budget, &ch->refusal);
        lunary_text_free(o->mem, &o->budget, &ch->transcript);
        lunary_text_free(o->mem, &o->budget, &ch->plan);
        lunary_buf_free(o->mem, &ch->parts);
        lunary_buf_free(o->mem, &ch->raw);
        lunary_buf_free(o->mem, &ch->finish_reason);
        lunary_free(o->mem, ch, sizeof(lunary_choice_t));
    }

    o->last = NULL;
}


static void
lunary_output_free_tool(lunary_output_t *o, lunary_tool_t *t)
{
    lunary_text_free(o->mem, &o->budget, &t->args);
    lunary_buf_free(o->mem, &t->id);
    lunary_buf_free(o->mem, &t->name);
    lunary_buf_free(o->mem, &t->member);
    lunary_free(o->mem, t, sizeof(lunary_tool_t));
}


lunary_choice_t *
lunary_output_choice(lunary_output_t *o, int64_t index)
{
    lunary_choice_t  *ch, **p;

    if (o->last != NULL && o->last->index == index) {
        return o->last;
    }

    for (p = &o->choices; *p != NULL; p = &(*p)->next) {

        if ((*p)->index == index) {
            o->last = *p;
            return *p;
        }

        if ((*p)->index > index) {
            break;
        }
    }

    if (o->nchoices == LUNARY_OUTPUT_CHOICES) {
        return NULL;
    }

    ch = lunary_alloc(o->mem, sizeof(lunary_choice_t));
    if (ch == NULL) {
        o->nomem = 1;
        return NULL;
    }

    memset(ch, 0, sizeof(lunary_choice_t));

    ch->index = index;
    ch->next = *p;
    *p = ch;

    o->nchoices++;
    o->last = ch;

    return ch;
}


lunary_tool_t *
lunary_output_tool_new(lunary_output_t *o, lunary_choice_t *ch,
    int64_t index)
{
    lunary_tool_t  *t;

    if (o->ntools == LUNARY_OUTPUT_TOOLS) {
        return NULL;
    }

    t = lunary_alloc(o->mem, sizeof(lunary_tool_t));
    if (t == NULL) {
        o->nomem = 1;
        return NULL;
    }

    memset(t, 0, sizeof(lunary_tool_t));

    t->index = index;

    if (ch->last_tool != NULL) {
        ch->last_tool->next = t;

    } else {
        ch->tools = t;
    }

    ch->last_tool = t;
    o->ntools++;

    return t;
}


lunary_tool_t *
lunary_output_tool(lunary_choice_t *ch, int64_t index)
{
    lunary_tool_t  *t, *found;

    if (ch->last_tool != NULL && ch->last_tool->index == index) {
        return ch->last_tool;
    }

    found = NULL;

    for (t = ch->tools; t != NULL; t = t->next) {
        if (t->index == index) {
            found = t;
        }
    }

    return found;
}


lunary_tool_t *
lunary_output_tool_id(lunary_choice_t *ch, lunary_str_t id)
{
    lunary_tool_t  *t, *found;

    found = NULL;

    for (t = ch->tools; t != NULL; t = t->next) {
        if (t->id.len == id.len && id.len != 0
            && memcmp(t->id.data, id.data, id.len) == 0)
        {
            found = t;
        }
    }

    return found;
}


void
lunary_output_small(lunary_output_t *o, lunary_buf_t *b, lunary_str_t inside)
{
    size_t  room;

    room = b->len < LUNARY_OUTPUT_ID ? LUNARY_OUTPUT_ID - b->len : 0;

    if (inside.len > room) {
        inside.len = lunary_inside_floor(inside, room);
    }

    if (lunary_inside_copy(o->mem, b, inside) != LUNARY_OK) {
        o->nomem = 1;
    }
}


void
lunary_output_tool_value(lunary_output_t *o, lunary_tool_t *tool,
    lunary_str_t value)
{
    lunary_output_tool_reset(o, tool);
    tool->object = 1;

    if (lunary_output_escaped(o, tool, value) != LUNARY_OK) {
        o->nomem = 1;
    }
}


void
lunary_output_tool_reset(lunary_output_t *o, lunary_tool_t *tool)
{
    lunary_text_free(o->mem, &o->budget, &tool->args);

    tool->args.size = 0;
    tool->object = 0;
    tool->members = 0;
    tool->in_string = 0;
}


void
lunary_output_tool_member(lunary_output_t *o, lunary_tool_t *tool,
    lunary_str_t name, lunary_str_t value)
{
    int           rc, same;
    lunary_buf_t  b;

    if (!tool->members) {
        lunary_output_tool_reset(o, tool);
    }

    memset(&b, 0, sizeof(lunary_buf_t));

    if (name.len > LUNARY_OUTPUT_ID) {
        name.len = lunary_inside_floor(name, LUNARY_OUTPUT_ID);
    }

    same = tool->members && tool->in_string && lunary_json_is_string(value)
           && tool->member.len == name.len && name.len != 0
           && memcmp(tool->member.data, name.data, name.len) == 0;

    rc = LUNARY_OK;

    if (!same) {

        /* what is escaped here is the arguments' own JSON */

        if (tool->in_string) {
            rc = lunary_buf_lit(o->mem, &b, "\"");
        }

        if (rc == LUNARY_OK) {
            rc = tool->members ? lunary_buf_lit(o->mem, &b, ",\"")
                               : lunary_buf_lit(o->mem, &b, "{\"");
        }

        if (rc == LUNARY_OK) {
            rc = lunary_inside_copy(o->mem, &b, name);
        }

        if (rc == LUNARY_OK) {
            rc = lunary_json_is_string(value)
                 ? lunary_buf_lit(o->mem, &b, "\":\"")
                 : lunary_buf_lit(o->mem, &b, "\":");
        }

        tool->member.len = 0;

        if (rc == LUNARY_OK) {
            rc = lunary_buf_append(o->mem, &tool->member, name.data,
                                   name.len);
        }
    }

    if (rc == LUNARY_OK) {
        rc = lunary_json_is_string(value)
             ? lunary_inside_copy(o->mem, &b, lunary_json_inside(value))
             : lunary_buf_append(o->mem, &b, value.data, value.len);
    }

    tool->members = 1;
    tool->in_string = lunary_json_is_string(value);

    if (rc == LUNARY_OK) {
        rc = lunary_output_escaped(o, tool, lunary_buf_str(&b));
    }

    if (rc != LUNARY_OK) {
        o->nomem = 1;
    }

    lunary_buf_free(o->mem, &b);
}


/* adds JSON text to a tool's arguments */

static int
lunary_output_escaped(lunary_output_t *o, lunary_tool_t *tool,
    lunary_str_t text)
{
    int           rc;
    lunary_buf_t  b;

    memset(&b, 0, sizeof(lunary_buf_t));

    rc = lunary_json_escape(o->mem, &b, text);

    if (rc == LUNARY_OK) {
        rc = lunary_text_append(o->mem, &o->budget, &tool->args,
                                lunary_buf_str(&b));
    }

    lunary_buf_free(o->mem, &b);

    return rc;
}


void
lunary_output_part(lunary_output_t *o, lunary_choice_t *ch,
    lunary_str_t part)
{
    size_t  len;

    if (o->budget.off || ch->parts.len + part.len > LUNARY_OUTPUT_PARTS) {
        o->lost += part.len;
        return;
    }

    len = ch->parts.len;

    if ((len != 0 && lunary_output_lit(o, &ch->parts, ","))
        || lunary_json_copy(o->mem, &ch->parts, part) != LUNARY_OK)
    {
        ch->parts.len = len;
        o->nomem = 1;
    }
}


int
lunary_output_write(lunary_output_t *o, lunary_buf_t *out, uint64_t *size)
{
    int               rc;
    size_t            removed;
    uint64_t          lost;
    lunary_choice_t  *ch;

    *size = 0;

    if (o->choices == NULL) {
        return LUNARY_OK;
    }

    lost = o->lost;

    if (o->nchoices > 1 && lunary_output_lit(o, out, "[")) {
        return LUNARY_NOMEM;
    }

    for (ch = o->choices; ch != NULL; ch = ch->next) {

        if (ch != o->choices && lunary_output_lit(o, out, ",")) {
            return LUNARY_NOMEM;
        }

        rc = lunary_output_message(o, ch, out, &lost);

        if (rc != LUNARY_OK) {
            return rc;
        }
    }

    if (o->nchoices > 1 && lunary_output_lit(o, out, "]")) {
        return LUNARY_NOMEM;
    }

    *size = out->len + lost;

    lunary_doc_shrink(out, o->max, &removed);

    return LUNARY_OK;
}


static int
lunary_output_message(lunary_output_t *o, lunary_choice_t *ch,
    lunary_buf_t *out, uint64_t *lost)
{
    size_t  n;

    static const char  head[] = "{\"role\":\"assistant\",\"content\":\"";

    n = sizeof(head) - 1;

    if (ch->raw.len != 0 && ch->text.size == 0) {

        if (lunary_buf_append(o->mem, out, head, n - 1) != LUNARY_OK
            || lunary_buf_append(o->mem, out, ch->raw.data, ch->raw.len)
               != LUNARY_OK)
        {
            return LUNARY_NOMEM;
        }

        lunary_buf_free(o->mem, &ch->raw);

    } else if (ch->parts.len != 0) {

        if (lunary_buf_append(o->mem, out, head, n - 1) != LUNARY_OK
            || lunary_output_lit(o, out, "["))
        {
            return LUNARY_NOMEM;
        }

        if (ch->text.size != 0
            && (lunary_output_lit(o, out, "{\"type\":\"text\",\"text\":\"")
                || lunary_output_text(o, &ch->text, out, lost) != LUNARY_OK
                || lunary_output_lit(o, out, "\"},")))
        {
            return LUNARY_NOMEM;
        }

        if (lunary_buf_append(o->mem, out, ch->parts.data, ch->parts.len)
            != LUNARY_OK
            || lunary_output_lit(o, out, "]"))
        {
            return LUNARY_NOMEM;
        }

        lunary_buf_free(o->mem, &ch->parts);

    } else if (ch->text.size == 0
               && (ch->tools != NULL || ch->refusal.size != 0
                   || ch->transcript.size != 0 || ch->plan.size != 0))
    {
        if (lunary_buf_append(o->mem, out, head, n - 1) != LUNARY_OK
            || lunary_output_lit(o, out, "null"))
        {
            return LUNARY_NOMEM;
        }

    } else if (out->len == 0 && ch->text.buf.len != 0
               && lunary_text_lost(&ch->text) == 0)
    {
        /* the usual answer becomes the field where it lies */

        if (lunary_buf_reserve(o->mem, &ch->text.buf, n + 64) != LUNARY_OK) {
            return LUNARY_NOMEM;
        }

        lunary_buf_free(o->mem, out);
        *out = ch->text.buf;
        memset(&ch->text.buf, 0, sizeof(lunary_buf_t));

        o->budget.held -= out->len;

        memmove(out->data + n, out->data, out->len);
        memcpy(out->data, head, n);
        out->len += n;

        if (lunary_output_lit(o, out, "\"")) {
            return LUNARY_NOMEM;
        }

    } else if (lunary_buf_append(o->mem, out, head, n) != LUNARY_OK
               || lunary_output_text(o, &ch->text, out, lost) != LUNARY_OK
               || lunary_output_lit(o, out, "\""))
    {
        return LUNARY_NOMEM;
    }

    if (ch->reasoning.size != 0
        && (lunary_output_lit(o, out, ",\"reasoning_content\":\"")
            || lunary_output_text(o, &ch->reasoning, out, lost) != LUNARY_OK
            || lunary_output_lit(o, out, "\"")))
    {
        return LUNARY_NOMEM;
    }

    if (ch->refusal.size != 0
        && (lunary_output_lit(o, out, ",\"refusal\":\"")
            || lunary_output_text(o, &ch->refusal, out, lost) != LUNARY_OK
            || lunary_output_lit(o, out, "\"")))
    {
        return LUNARY_NOMEM;
    }

    if (ch->transcript.size != 0
        && (lunary_output_lit(o, out, ",\"audio\":{\"transcript\":\"")
            || lunary_output_text(o, &ch->transcript, out, lost) != LUNARY_OK
            || lunary_output_lit(o, out, "\"}")))
    {
        return LUNARY_NOMEM;
    }

    if (ch->plan.size != 0
        && (lunary_output_lit(o, out, ",\"tool_plan\":\"")
            || lunary_output_text(o, &ch->plan, out, lost) != LUNARY_OK
            || lunary_output_lit(o, out, "\"")))
    {
        return LUNARY_NOMEM;
    }

    if (lunary_output_tools(o, ch, out, lost) != LUNARY_OK) {
        return LUNARY_NOMEM;
    }

    return lunary_buf_lit(o->mem, out, "}");
}


static int
lunary_output_tools(lunary_output_t *o, lunary_choice_t *ch,
    lunary_buf_t *out, uint64_t *lost)
{
    lunary_tool_t  *t;

    if (ch->tools == NULL) {
        return LUNARY_OK;
    }

    if (lunary_output_lit(o, out, ",\"tool_calls\":[")) {
        return LUNARY_NOMEM;
    }

    for (t = ch->tools; t != NULL; t = t->next) {

        if ((t != ch->tools && lunary_output_lit(o, out, ","))
            || lunary_output_lit(o, out, "{"))
        {
            return LUNARY_NOMEM;
        }

        if (t->id.len != 0
            && (lunary_output_lit(o, out, "\"id\":\"")
                || lunary_buf_append(o->mem, out, t->id.data, t->id.len)
                   != LUNARY_OK
                || lunary_output_lit(o, out, "\",")))
        {
            return LUNARY_NOMEM;
        }

        if (lunary_output_lit(o, out, "\"type\":\"function\","
                              "\"function\":{\"name\":\"")
            || lunary_buf_append(o->mem, out, t->name.data, t->name.len)
               != LUNARY_OK
            || lunary_output_lit(o, out, "\",\"arguments\":\"")
            || lunary_output_text(o, &t->args, out, lost) != LUNARY_OK
            || (t->in_string && lunary_output_lit(o, out, "\\\""))
            || (t->members && lunary_output_lit(o, out, "}"))
            || lunary_output_lit(o, out, "\"}}"))
        {
            return LUNARY_NOMEM;
        }
    }

    return lunary_buf_lit(o->mem, out, "]");
}


/* writes a text and gives its memory back */

static int
lunary_output_text(lunary_output_t *o, lunary_text_t *t, lunary_buf_t *out,
    uint64_t *lost)
{
    size_t  len;

    if (o->budget.off) {

        /* nothing of it is held */

        *lost += t->size;

        return LUNARY_OK;
    }

    len = out->len;

    lunary_text_settle(&o->budget, t);

    if (lunary_text_write(o->mem, t, out) != LUNARY_OK) {
        return LUNARY_NOMEM;
    }

    /* what the mark takes is not the text's */

    *lost += t->size - (out->len - len);

    lunary_text_free(o->mem, &o->budget, t);

    return LUNARY_OK;
}
