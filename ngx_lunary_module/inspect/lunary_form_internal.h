/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What the two kinds of form bodies share: lunary_form.c has the urlencoded
 * ones and what becomes of a field, lunary_form_multipart.c finds the fields
 * of a multipart.
 */

#ifndef LUNARY_FORM_INTERNAL_H
#define LUNARY_FORM_INTERNAL_H

#include "lunary_form.h"


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


/* lunary_form.c */

/* a field is whole: its name, its value or what the file is */
void lunary_form_field(lunary_form_t *form);

/* appends to b what fits into max; without memory form->rc says so */
void lunary_form_keep(lunary_form_t *form, lunary_buf_t *b, const void *p,
    size_t n, size_t max);


/* lunary_form_multipart.c */

/* LUNARY_OK, LUNARY_DONE behind the last delimiter, or an error */
int lunary_form_multipart(lunary_form_t *form, const unsigned char *p,
    const unsigned char *end);

/*
 * The value of a header's parameter, quotes taken off; empty where it has
 * none.  `name` must not be the end of another parameter's name ("filename").
 */
lunary_str_t lunary_form_param(lunary_str_t head, const char *name);


#endif /* LUNARY_FORM_INTERNAL_H */
