/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Events that repeat.  Most chunks of a stream are the one before but for a
 * few bytes of text: what such an event says was read once, and only its text
 * is added.
 *
 * Invariants
 *   - an event is one like that before where both are  head text tail  with
 *     the same head and tail, and text is the inside of one string, not empty,
 *     and both have the same name, or none;
 *     in the tail the value of "obfuscation", which OpenAI fills with noise,
 *     may differ, too, if that is the last member;
 *   - the one before was read in full, by a dialect that says so
 *     (priv->repeats), and did nothing but add its text to one text, and what
 *     makes no difference when it is done again;
 *   - so the outcome is that of reading every event in full.
 *
 * lunary_call_body.c calls it.
 */

#include "lunary_call_internal.h"


#define LUNARY_REPEAT_MAX     4096    /* of an event                         */
#define LUNARY_REPEAT_MISSES  32      /* events in a row that were not alike */


static const char  lunary_repeat_noise[] = "\"obfuscation\":\"";

#define LUNARY_REPEAT_NOISE  (sizeof(lunary_repeat_noise) - 1)


static const unsigned char *lunary_repeat_find(const unsigned char *p,
    const unsigned char *end);


/*
 * The event that is kept is head, text, tail, noise, rest: repeat_head,
 * repeat_tail and repeat_rest are where the second, the third and the last
 * of them start; tail and rest start with a string's closing quote.
 */

int
lunary_call_repeat(lunary_call_t *call, lunary_str_t name, lunary_str_t data)
{
    size_t                n;
    lunary_str_t          inside;
    lunary_priv_t        *priv;
    const unsigned char  *p, *q, *end, *kept;

    priv = lunary_priv(call);
    kept = priv->repeat.data;

    p = data.data;
    end = p + data.len;

    if (name.len != priv->repeat_name_len
        || (name.len != 0
            && memcmp(name.data, priv->repeat_name, name.len) != 0))
    {
        return 0;
    }

    if (data.len < priv->repeat_head
        || memcmp(p, kept, priv->repeat_head) != 0)
    {
        return 0;
    }

    p += priv->repeat_head;
    q = lunary_walk_close(p, end);

    inside = lunary_str(p, (size_t) (q - p));

    if (inside.len == 0) {
        return 0;
    }

    /* up to the noise's opening quote, or the end */

    n = priv->repeat_noise - priv->repeat_tail;

    if ((size_t) (end - q) < n
        || memcmp(q, kept + priv->repeat_tail, n) != 0)
    {
        return 0;
    }

    q += n;

    if (priv->repeat_noise != priv->repeat.len) {
        q = lunary_walk_close(q, end);
        n = priv->repeat.len - priv->repeat_rest;

        if ((size_t) (end - q) < n
            || memcmp(q, kept + priv->repeat_rest, n) != 0)
        {
            return 0;
        }

        q += n;
    }

    if (q != end) {
        return 0;
    }

    priv->repeat_misses = 0;
    lunary_call_again(call, priv->added_to, inside);

    return 1;
}


void
lunary_call_repeat_note(lunary_call_t *call, lunary_str_t name,
    lunary_str_t data)
{
    size_t                head, tail;
    lunary_priv_t        *priv;
    const unsigned char  *p, *q, *end;

    priv = lunary_priv(call);

    priv->repeat.len = 0;

    if (priv->changes != 1 || !priv->repeats
        || data.len > LUNARY_REPEAT_MAX || name.len > LUNARY_CALL_NAME
        || priv->repeat_misses == LUNARY_REPEAT_MISSES)
    {
        return;
    }

    /* the text must be all of a string in there */

    head = (size_t) (priv->added.data - data.data);

    if ((uintptr_t) priv->added.data - (uintptr_t) data.data >= data.len
        || head == 0 || data.data[head - 1] != '"')
    {
        return;
    }

    tail = head + priv->added.len;
    end = data.data + data.len;

    if (tail >= data.len
        || lunary_walk_close(priv->added.data, end) != data.data + tail)
    {
        return;
    }

    priv->repeat_misses++;

    if (lunary_buf_append(call->mem, &priv->repeat, data.data, data.len)
        != LUNARY_OK)
    {
        return;
    }

    priv->repeat_name_len = (unsigned) name.len;

    if (name.len != 0) {
        memcpy(priv->repeat_name, name.data, name.len);
    }

    priv->repeat_head = head;
    priv->repeat_tail = tail;
    priv->repeat_noise = data.len;

    p = lunary_repeat_find(data.data + tail, end);

    if (p != NULL) {
        q = lunary_walk_close(p, end);

        /* as the last of the event's own members only */

        if (end - q == 2) {
            priv->repeat_noise = (size_t) (p - data.data);
            priv->repeat_rest = (size_t) (q - data.data);
        }
    }
}


/* the inside of the noise, or NULL */

static const unsigned char *
lunary_repeat_find(const unsigned char *p, const unsigned char *end)
{
    while ((size_t) (end - p) > LUNARY_REPEAT_NOISE) {

        if (memcmp(p, lunary_repeat_noise, LUNARY_REPEAT_NOISE) == 0) {
            return p + LUNARY_REPEAT_NOISE;
        }

        p = memchr(p + 1, '"', (size_t) (end - p) - 1);

        if (p == NULL) {
            break;
        }
    }

    return NULL;
}
