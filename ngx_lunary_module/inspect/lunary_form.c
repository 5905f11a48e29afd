/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Form bodies.  See lunary_form.h.
 */

#include <strings.h>

#include "lunary_form.h"
#include "lunary_json.h"


enum {
    LUNARY_FORM_BODY = 0,          /* a part's content, or the preamble      */
    LUNARY_FORM_BOUND,             /* behind a delimiter                     */
    LUNARY_FORM_HEAD,              /* in a part's headers                    */
    LUNARY_FORM_END,               /* behind the last delimiter              */
    LUNARY_FORM_KEY,               /* urlencoded: a name                     */
    LUNARY_FORM_VAL                /* urlencoded: its value                  */
};


struct lunary_form_s {
    lunary_mem_t      *mem;
    int                rc;
    int                state;
    unsigned           part:1;     /* a part is open                         */
    unsigned           file:1;     /* it is a file                           */
    unsigned           multi:1;
    unsigned           names;      /* LUNARY_FORM_USER ...                   */
    unsigned           fields;

    unsigned char      delim[LUNARY_FORM_BOUNDARY + 4];
    size_t             delim_len;
    size_t             match;      /* bytes of delim that matched            */
    size_t             stray;      /* the same behind any line end, and one  */
    unsigned char      tail[2];    /* behind a delimiter: "--" or CRLF       */
    size_t             tail_len;

    lunary_buf_t       head;       /* a part's headers                       */
    lunary_buf_t       name;
    lunary_buf_t       type;       /* a file's type                          */
    lunary_buf_t       value;
    uint64_t           size;       /* of the part's content                  */

    lunary_buf_t       text;
};


static lunary_str_t lunary_form_param(lunary_str_t head, const char *name);
static int lunary_form_multipart(lunary_form_t *form, const unsigned char *p,
    const unsigned char *end);
static void lunary_form_stray(lunary_form_t *form, const unsigned char *p,
    size_t n);
static void lunary_form_head(lunary_form_t *form);
static void lunary_form_content(lunary_form_t *form, const unsigned char *p,
    size_t n);
static int lunary_form_urlencoded(lunary_form_t *form,
    const unsigned char *p, const unsigned char *end);
static void lunary_form_decode(lunary_buf_t *b);
static void lunary_form_field(lunary_form_t *form);
static void lunary_form_note(lunary_form_t *form);
static void lunary_form_keep(lunary_form_t *form, lunary_buf_t *b,
    const void *p, size_t n, size_t max);


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


/*
 * The value of a header's parameter, quotes taken off; empty where it has
 * none.  `name` must not be the end of another parameter's name ("filename").
 */

static lunary_str_t
lunary_form_param(lunary_str_t head, const char *name)
{
    size_t                len;
    const unsigned char  *p, *end, *start;

    len = strlen(name);
    p = head.data;
    end = p + head.len;

    while (p < end) {

        /* parameters start behind a semicolon; quoted ones are stepped over */

        if (*p == '"') {
            p = memchr(p + 1, '"', (size_t) (end - p - 1));

            if (p == NULL) {
                break;
            }

            p++;
            continue;
        }

        if (*p++ != ';') {
            continue;
        }

        while (p < end && (*p == ' ' || *p == '\t')) {
            p++;
        }

        if ((size_t) (end - p) <= len || p[len] != '='
            || strncasecmp((const char *) p, name, len) != 0)
        {
            continue;
        }

        p += len + 1;

        if (p < end && *p == '"') {
            start = ++p;

            while (p < end && *p != '"') {
                p++;
            }

        } else {
            start = p;

            while (p < end && *p != ';' && *p != ' ' && *p != '\r'
                   && *p != '\n')
            {
                p++;
            }
        }

        return lunary_str(start, (size_t) (p - start));
    }

    return lunary_str(NULL, 0);
}


static int
lunary_form_multipart(lunary_form_t *form, const unsigned char *p,
    const unsigned char *end)
{
    size_t                n;
    const unsigned char  *start;

    while (p < end) {

        switch (form->state) {

        case LUNARY_FORM_BODY:

            if (form->match == 0) {
                start = p;
                p = memchr(p, '\r', (size_t) (end - p));

                if (p == NULL) {
                    p = end;
                }

                lunary_form_content(form, start, (size_t) (p - start));

                if (p == end) {
                    break;
                }
            }

            while (p < end && form->match < form->delim_len
                   && *p == form->delim[form->match])
            {
                form->match++;
                p++;
            }

            if (form->match == form->delim_len) {
                form->match = 0;
                form->tail_len = 0;
                form->state = LUNARY_FORM_BOUND;
                break;
            }

            if (p < end) {

                /* not the delimiter: what matched was content */

                lunary_form_content(form, form->delim, form->match);
                form->match = 0;
            }

            break;

        case LUNARY_FORM_BOUND:

            /* "--" ends the form, CRLF starts a part; white space between
               is allowed */

            if (*p == ' ' || *p == '\t') {
                form->names |= LUNARY_FORM_AMBIGUOUS;
                p++;
                break;
            }

            form->tail[form->tail_len++] = *p++;

            if (form->tail_len < 2) {
                break;
            }

            if (memcmp(form->tail, "--", 2) != 0
                && memcmp(form->tail, "\r\n", 2) != 0)
            {
                /* a longer word that starts like the boundary: content */

                lunary_form_content(form, form->delim, form->delim_len);

                form->match = (form->tail[1] == '\r');
                lunary_form_content(form, form->tail, 2 - form->match);

                form->state = LUNARY_FORM_BODY;
                break;
            }

            if (form->part) {
                lunary_form_field(form);
            }

            if (form->tail[0] == '-') {
                form->state = LUNARY_FORM_END;
                break;
            }

            form->head.len = 0;
            form->state = LUNARY_FORM_HEAD;
            break;

        case LUNARY_FORM_HEAD:

            n = form->head.len;
            lunary_form_keep(form, &form->head, p, 1, LUNARY_FORM_HEADERS);

            if (form->rc < 0) {
                return form->rc;
            }

            if (form->head.len == n) {

                /* too long to be a part of interest: its end still counts */

                form->names |= LUNARY_FORM_AMBIGUOUS;

                memmove(form->head.data + n - 4, form->head.data + n - 3, 3);
                form->head.data[n - 1] = *p;
            }

            p++;
            n = form->head.len;

            if ((n >= 4 && memcmp(form->head.data + n - 4, "\r\n\r\n", 4) == 0)
                || (n == 2 && memcmp(form->head.data, "\r\n", 2) == 0))
            {
                lunary_form_head(form);
                form->state = LUNARY_FORM_BODY;

                /* an empty part: the delimiter's CRLF may be the headers' */

                form->match = 0;
            }

            break;

        default:  /* LUNARY_FORM_END */
            return LUNARY_DONE;
        }

        if (form->rc < 0) {
            return form->rc;
        }
    }

    return form->state == LUNARY_FORM_END ? LUNARY_DONE : LUNARY_OK;
}


/* a part's headers are complete */

static void
lunary_form_head(lunary_form_t *form)
{
    size_t                n;
    unsigned              seen;
    lunary_str_t          name, type;
    const unsigned char  *p, *end, *eol;

    seen = 0;
    form->part = 1;
    form->file = 0;
    form->size = 0;
    form->name.len = 0;
    form->type.len = 0;
    form->value.len = 0;

    p = form->head.data;
    end = p + form->head.len;

    while (p < end) {
        eol = memchr(p, '\n', (size_t) (end - p));

        if (eol == NULL) {
            eol = end;
        }

        n = (size_t) (eol - p);

        if (n != 0 && (*p == ' ' || *p == '\t' || *p == '-'
                       || p[n - 1] != '\r'))
        {
            form->names |= LUNARY_FORM_AMBIGUOUS;
        }

        if (n > 20
            && strncasecmp((const char *) p, "content-disposition:", 20) == 0)
        {
            name = lunary_form_param(lunary_str(p, n), "name");

            if (seen++ || name.len == 0 || name.len > 256
                || memchr(name.data, '\\', name.len) != NULL
                || lunary_form_param(lunary_str(p, n), "name*").data != NULL
                || lunary_form_param(lunary_str(name.data + name.len,
                                                (size_t) (p + n - name.data)
                                                - name.len), "name").data
                   != NULL)
            {
                form->names |= LUNARY_FORM_AMBIGUOUS;
            }

            form->name.len = 0;
            lunary_form_keep(form, &form->name, name.data, name.len, 256);

            type = lunary_form_param(lunary_str(p, n), "filename");
            form->file |= (type.data != NULL);

            type = lunary_form_param(lunary_str(p, n), "filename*");
            form->file |= (type.data != NULL);

        } else if (n > 13
                   && strncasecmp((const char *) p, "content-type:", 13) == 0)
        {
            p += 13;
            n -= 13;

            while (n != 0 && (*p == ' ' || *p == '\t')) {
                p++;
                n--;
            }

            while (n != 0 && (p[n - 1] == '\r' || p[n - 1] == ' ')) {
                n--;
            }

            lunary_form_keep(form, &form->type, p, n, 128);
        }

        p = eol + (eol < end);
    }

    if (seen == 0) {
        form->names |= LUNARY_FORM_AMBIGUOUS;
    }
}


static void
lunary_form_content(lunary_form_t *form, const unsigned char *p, size_t n)
{
    lunary_form_stray(form, p, n);

    if (!form->part) {

        /* before the first part: the line end that `match` began with, or
           what some take for a part */

        while (n != 0 && (p[n - 1] == '\r' || p[n - 1] == '\n')) {
            n--;
        }

        if (n != 0) {
            form->names |= LUNARY_FORM_AMBIGUOUS;
        }

        return;
    }

    form->size += n;

    if (!form->file) {
        lunary_form_keep(form, &form->value, p, n, LUNARY_FORM_VALUE);
    }
}


/*
 * A delimiter behind a bare line feed or carriage return, in content: some
 * parsers take it for one.  It holds no line end itself, so that each line
 * is compared once.
 */

static void
lunary_form_stray(lunary_form_t *form, const unsigned char *p, size_t n)
{
    const unsigned char  *end;

    for (end = p + n; p < end; p++) {

        if (form->stray == 0 && *p != '\r') {
            p = memchr(p, '\n', (size_t) (end - p));

            if (p == NULL) {
                return;
            }
        }

        if (*p == '\r' || *p == '\n') {
            form->stray = 1;

        } else if (*p == form->delim[form->stray + 1]) {

            if (++form->stray + 1 == form->delim_len) {
                form->names |= LUNARY_FORM_AMBIGUOUS;
                form->stray = 0;
            }

        } else {
            form->stray = 0;
        }
    }
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

static void
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

static void
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
