/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Form bodies: multipart/form-data (RFC 7578), as audio and image APIs take,
 * and application/x-www-form-urlencoded.  What comes out is one small JSON
 * object, so that dialects read a form as they read JSON: text fields as
 * strings, a file as a reference, "[12345 bytes]" with its type.
 *
 * Invariants
 *   - the media itself is never kept, only counted;
 *   - at most LUNARY_FORM_FIELDS fields of LUNARY_FORM_VALUE bytes each are
 *     kept, 64 KiB of JSON at most; more is passed over;
 *   - linear, whatever the split: a boundary holds no CR, so a delimiter that
 *     fails to match can only start again at its own first byte.
 */

#ifndef LUNARY_FORM_H
#define LUNARY_FORM_H

#include "lunary_base.h"


#define LUNARY_FORM_FIELDS    64
#define LUNARY_FORM_VALUE     8192
#define LUNARY_FORM_HEADERS   2048
#define LUNARY_FORM_TEXT      65536
#define LUNARY_FORM_BOUNDARY  200


typedef struct lunary_form_s  lunary_form_t;

/*
 * By the Content-Type's value; NULL where it is no form, has no usable
 * boundary, or memory is out (*rc: LUNARY_ERROR, LUNARY_NOMEM).
 */
lunary_form_t *lunary_form_create(lunary_mem_t *mem, lunary_str_t type,
    int *rc);
void lunary_form_destroy(lunary_form_t *form);

/* LUNARY_OK, LUNARY_DONE behind the last boundary, or LUNARY_NOMEM */
int lunary_form_feed(lunary_form_t *form, const unsigned char *p, size_t n);

/* no more bytes: LUNARY_OK where the form is complete, else LUNARY_ERROR */
int lunary_form_finish(lunary_form_t *form);

/*
 * What may name the user: LUNARY_FORM_USER a field `user`,
 * LUNARY_FORM_SAFETY, LUNARY_FORM_METADATA the others that APIs define
 * (ASCII case folded, up to a bracket or a dot); LUNARY_FORM_AMBIGUOUS: more
 * than one of them or one in another spelling, or a form that parsers do not
 * agree about (bare line feeds, text before the first part, folded headers,
 * parts without a name, semicolons for ampersands).
 */
#define LUNARY_FORM_USER       0x01
#define LUNARY_FORM_SAFETY     0x02
#define LUNARY_FORM_METADATA   0x04
#define LUNARY_FORM_AMBIGUOUS  0x08

unsigned lunary_form_names(const lunary_form_t *form);

/* the fields as a JSON object; after finish(), until destroy */
lunary_str_t lunary_form_text(lunary_form_t *form);


#endif /* LUNARY_FORM_H */
