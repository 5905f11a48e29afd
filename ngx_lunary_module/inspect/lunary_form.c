/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Form bodies.  See lunary_form.h; the parts of a multipart are found in
 * lunary_form_multipart.c.
 */

#include <strings.h>

#include "lunary_form_internal.h"
#include "lunary_json.h"


static int lunary_form_urlencoded(lunary_form_t *form,
    const unsigned char *p, const unsigned char *end);
static void lunary_form_decode(lunary_buf_t *b);
static void lunary_form_note(lunary_form_t *form);


lunary_form_t *
lunary_form_create(lunary_mem_t *mem, lunary_str_t type, int *rc)
{
    int            multi;
    lunary_str_t   boundary;
    lunary_form_t  *form;

    *rc = LUNARY_ERROR;

    if (type.len == 16 && memcmp(type.data, "application/json", 16) == 0) {
        return NULL;
    }

    multi = 0;
    boundary = lunary_str(NULL, 0);

    if (type.len >= 19
        && strncasecmp((const char *) type.data, "multipart/form-data", 19)
           == 0)
    {
        multi = 1;
        boundary = lunary_form_param(type, "boundary");

        if (boundary.len == 0 || boundary.len > LUNARY_FORM_BOUNDARY
            || memchr(boundary.data, '\r', boundary.len) != NULL)
        {
            return NULL;
        }

    } else if (type.len < 33
               || strncasecmp((const char *) type.data,
                              "application/x-www-form-urlencoded", 33) != 0)
    {
        return NULL;
    }

    *rc = LUNARY_NOMEM;

    form = lunary_alloc(mem, sizeof(lunary_form_t));
    if (form == NULL) {
        return NULL;
    }

    memset(form, 0, sizeof(lunary_form_t));

    form->mem = mem;
    form->multi = (multi != 0);

    if (multi) {
        memcpy(form->delim, "\r\n--", 4);
        memcpy(form->delim + 4, boundary.data, boundary.len);
        form->delim_len = 4 + boundary.len;

        /* the first delimiter may stand at the very start */

        form->match = 2;
        form->state = LUNARY_FORM_BODY;

    } else {
        form->state = LUNARY_FORM_KEY;
    }

    *rc = LUNARY_OK;

    return form;
}


void
lunary_form_destroy(lunary_form_t *form)
{
    lunary_buf_free(form->mem, &form->head);
    lunary_buf_free(form->mem, &form->name);
    lunary_buf_free(form->mem, &form->type);
    lunary_buf_free(form->mem, &form->value);
    lunary_buf_free(form->mem, &form->text);

    lunary_free(form->mem, form, sizeof(lunary_form_t));
}


int
lunary_form_feed(lunary_form_t *form, const unsigned char *p, size_t n)
{
    if (form->rc < 0) {
        return form->rc;
    }

    if (form->multi) {
        return lunary_form_multipart(form, p, p + n);
    }

    return lunary_form_urlencoded(form, p, p + n);
}


int
lunary_form_finish(lunary_form_t *form)
{
    int  rc;

    rc = LUNARY_OK;

    if (form->multi) {
        if (form->state != LUNARY_FORM_END) {
            rc = LUNARY_ERROR;
        }

    } else if (form->state == LUNARY_FORM_VAL) {
        lunary_form_field(form);
    }

    if (form->text.len == 0) {
        (void) lunary_buf_lit(form->mem, &form->text, "{");
    }

    if (lunary_buf_lit(form->mem, &form->text, "}") != LUNARY_OK) {
        form->text.len = 0;
        return LUNARY_NOMEM;
    }

    return form->rc < 0 ? form->rc : rc;
}


unsigned
lunary_form_names(const lunary_form_t *form)
{
    return form->names;
}


lunary_str_t
lunary_form_text(lunary_form_t *form)
{
    return lunary_buf_str(&form->text);
}


static int
lunary_form_urlencoded(lunary_form_t *form, const unsigned char *p,
    const unsigned char *end)
{
    const unsigned char  *start;

    while (p < end) {
        start = p;

        if (form->state == LUNARY_FORM_KEY) {

            while (p < end && *p != '=' && *p != '&') {
                p++;
            }

            lunary_form_keep(form, &form->name, start, (size_t) (p - start),
                             256);

            if (p == end) {
                break;
            }

            if (*p++ == '&') {
                form->name.len = 0;
                continue;
            }

            form->value.len = 0;
            form->size = 0;
            form->state = LUNARY_FORM_VAL;
            continue;
        }

        p = memchr(p, '&', (size_t) (end - p));

        if (p == NULL) {
            p = end;
        }

        form->size += (uint64_t) (p - start);
        lunary_form_keep(form, &form->value, start, (size_t) (p - start),
                         LUNARY_FORM_VALUE);

        if (p == end) {
            break;
        }

        lunary_form_field(form);
        form->state = LUNARY_FORM_KEY;
        p++;
    }

    return form->rc < 0 ? form->rc : LUNARY_OK;
}


/* '+' and %XX, in place */

static void
lunary_form_decode(lunary_buf_t *b)
{
    int             hi, lo;
    size_t          i, n;

    for (i = 0, n = 0; i < b->len; i++) {

        if (b->data[i] == '+') {
            b->data[n++] = ' ';
            continue;
        }

        if (b->data[i] == '%' && i + 2 < b->len) {
            hi = b->data[i + 1];
            lo = b->data[i + 2];

            hi = hi >= '0' && hi <= '9' ? hi - '0'
                 : (hi | 32) >= 'a' && (hi | 32) <= 'f' ? (hi | 32) - 'a' + 10
                 : -1;
            lo = lo >= '0' && lo <= '9' ? lo - '0'
                 : (lo | 32) >= 'a' && (lo | 32) <= 'f' ? (lo | 32) - 'a' + 10
                 : -1;

            if (hi >= 0 && lo >= 0) {
                b->data[n++] = (unsigned char) (hi << 4 | lo);
                i += 2;
                continue;
            }
        }

        b->data[n++] = b->data[i];
    }

    b->len = n;
}


/* a field is complete: its member of the JSON object */

void
lunary_form_field(lunary_form_t *form)
{
    int            rc;
    size_t         len;
    lunary_mem_t  *mem;
    lunary_buf_t  *out;

    mem = form->mem;
    out = &form->text;
    len = out->len;

    form->part = 0;

    if (!form->multi) {

        if ((form->name.len != 0
             && memchr(form->name.data, ';', form->name.len) != NULL)
            || (form->value.len != 0
                && memchr(form->value.data, ';', form->value.len) != NULL)
            || form->name.len == 256)
        {
            form->names |= LUNARY_FORM_AMBIGUOUS;
        }

        lunary_form_decode(&form->name);
        lunary_form_decode(&form->value);
    }

    lunary_form_note(form);

    if (form->name.len == 0 || form->fields == LUNARY_FORM_FIELDS
        || out->len + form->name.len + form->value.len + 256
           > LUNARY_FORM_TEXT)
    {
        form->name.len = 0;
        form->value.len = 0;
        return;
    }

    form->fields++;

    rc = len == 0 ? lunary_buf_lit(mem, out, "{\"")
                  : lunary_buf_lit(mem, out, ",\"");

    if (rc == LUNARY_OK) {
        rc = lunary_json_escape(mem, out, lunary_buf_str(&form->name));
    }

    if (rc == LUNARY_OK) {
        rc = lunary_buf_lit(mem, out, "\":\"");
    }

    if (rc == LUNARY_OK && !form->file) {
        rc = lunary_json_escape(mem, out, lunary_buf_str(&form->value));
    }

    if (rc == LUNARY_OK && form->file && form->type.len != 0) {
        rc = lunary_json_escape(mem, out, lunary_buf_str(&form->type));

        if (rc == LUNARY_OK) {
            rc = lunary_buf_lit(mem, out, " ");
        }
    }

    if (rc == LUNARY_OK && (form->file || form->size > LUNARY_FORM_VALUE)) {
        rc = lunary_buf_lit(mem, out, "[");

        if (rc == LUNARY_OK) {
            rc = lunary_buf_append_int(mem, out, (int64_t) form->size);
        }

        if (rc == LUNARY_OK) {
            rc = lunary_buf_lit(mem, out, " bytes]");
        }
    }

    if (rc == LUNARY_OK) {
        rc = lunary_buf_lit(mem, out, "\"");
    }

    if (rc != LUNARY_OK) {
        out->len = len;
        form->rc = LUNARY_NOMEM;
    }

    form->name.len = 0;
    form->value.len = 0;
}


/* does the field name the user? */

static void
lunary_form_note(lunary_form_t *form)
{
    size_t               i, n;
    static const struct {
        lunary_str_t     name;
        unsigned         bit;
    } names[] = {
        { lunary_string("user"), LUNARY_FORM_USER },
        { lunary_string("safety_identifier"), LUNARY_FORM_SAFETY },
        { lunary_string("metadata"), LUNARY_FORM_METADATA }
    };

    for (n = 0; n < form->name.len; n++) {
        if (form->name.data[n] == '[' || form->name.data[n] == '.') {
            break;
        }
    }

    for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {

        if (n != names[i].name.len
            || strncasecmp((const char *) form->name.data,
                           (const char *) names[i].name.data, n) != 0)
        {
            continue;
        }

        if (names[i].bit != LUNARY_FORM_METADATA
            && ((form->names & names[i].bit) || n != form->name.len
                || form->file
                || memcmp(form->name.data, names[i].name.data, n) != 0))
        {
            form->names |= LUNARY_FORM_AMBIGUOUS;
        }

        form->names |= names[i].bit;
    }
}


/* appends up to a bound */

void
lunary_form_keep(lunary_form_t *form, lunary_buf_t *b, const void *p,
    size_t n, size_t max)
{
    if (n > max - b->len) {
        n = max - b->len;
    }

    if (lunary_buf_append(form->mem, b, p, n) != LUNARY_OK) {
        form->rc = LUNARY_NOMEM;
    }
}
