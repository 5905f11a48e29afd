/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Multipart bodies: delimiters, a part's headers, and of its content what a
 * field needs.  What parsers do not agree about is noted as ambiguous.
 */

#include <strings.h>

#include "lunary_form_internal.h"


static void lunary_form_stray(lunary_form_t *form, const unsigned char *p,
    size_t n);
static void lunary_form_head(lunary_form_t *form);
static void lunary_form_content(lunary_form_t *form, const unsigned char *p,
    size_t n);


int
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


lunary_str_t
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
