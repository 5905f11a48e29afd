/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Reading complete JSON texts that lie whole in memory: stream events,
 * reduced documents (lunary_doc.h), members of either.  Values are slices of
 * the text, nothing is decoded or allocated until somebody asks for it.
 *
 * Invariants
 *   - linear: one step over a value looks at each of its bytes once, strings
 *     and nested values are skipped with vector code (lunary_simd.h);
 *   - no recursion: nesting costs no stack;
 *   - lenient inside what is skipped: brackets must balance and strings must
 *     end, the rest is not judged here (lunary_doc.h judges, where strict);
 *   - a value slice starts at its first byte and ends behind its last: no
 *     white space around it; a string's slice has its quotes.
 */

#ifndef LUNARY_JSON_H
#define LUNARY_JSON_H

#include "lunary_base.h"


typedef enum {
    LUNARY_JSON_NONE = 0,         /* empty slice, or not a value             */
    LUNARY_JSON_OBJECT,
    LUNARY_JSON_ARRAY,
    LUNARY_JSON_STRING,
    LUNARY_JSON_NUMBER,
    LUNARY_JSON_TRUE,
    LUNARY_JSON_FALSE,
    LUNARY_JSON_NULL
} lunary_json_type_t;


/* told by the first byte */
lunary_json_type_t lunary_json_type(lunary_str_t v);

#define lunary_json_is_string(v)  ((v).len >= 2 && (v).data[0] == '"')
#define lunary_json_is_object(v)  ((v).len >= 2 && (v).data[0] == '{')
#define lunary_json_is_array(v)   ((v).len >= 2 && (v).data[0] == '[')
#define lunary_json_is_true(v)    ((v).len == 4 && (v).data[0] == 't')
#define lunary_json_is_false(v)   ((v).len == 5 && (v).data[0] == 'f')


/*
 * The value that starts at or after *p (white space skipped), bounded by end.
 * Moves *p behind it.  LUNARY_JSON_NONE in *v's type where there is none or
 * it does not end: then *v is empty.
 */
lunary_str_t lunary_json_value(const unsigned char **p,
    const unsigned char *end);


/*
 * Iteration over one object or array, in order:
 *
 *     lunary_json_iter(&it, v);
 *     while (lunary_json_member(&it, &key, &val)) { ... }      an object's
 *     while (lunary_json_element(&it, &val)) { ... }           an array's
 *
 * key is without its quotes, still escaped.  Ends early on malformed text;
 * a value of another type has no members or elements.
 */
typedef struct {
    const unsigned char  *p;
    const unsigned char  *end;
} lunary_json_iter_t;

void lunary_json_iter(lunary_json_iter_t *it, lunary_str_t v);
int lunary_json_member(lunary_json_iter_t *it, lunary_str_t *key,
    lunary_str_t *val);
int lunary_json_element(lunary_json_iter_t *it, lunary_str_t *val);


/*
 * One pass over an object: vals[i] becomes the value of the member named
 * keys[i], or empty; the last of equal names wins.  Keys are compared as
 * they are written (an escaped key is unescaped first).  Returns how many
 * were found.
 */
size_t lunary_json_pick(lunary_str_t obj, const lunary_str_t *keys,
    lunary_str_t *vals, size_t n);

/* member of an object by a literal name; empty where there is none */
lunary_str_t lunary_json_get_n(lunary_str_t obj, const char *key, size_t len);
#define lunary_json_get(obj, lit)                                            \
    lunary_json_get_n(obj, lit, sizeof(lit) - 1)

/* element i of an array; empty where there is none */
lunary_str_t lunary_json_at(lunary_str_t arr, size_t i);


/* a string value's escaped inside (without quotes); empty for other types */
lunary_str_t lunary_json_inside(lunary_str_t v);

/*
 * Appends the UTF-8 that a string's escaped inside stands for.  Lone
 * surrogates and bytes that are not UTF-8 become U+FFFD.  Returns LUNARY_OK,
 * LUNARY_NOMEM, or LUNARY_ERROR for a bad escape (what came before it stays).
 */
int lunary_json_unescape(lunary_mem_t *mem, lunary_buf_t *out,
    lunary_str_t inside);

/*
 * Appends bytes as the inside of a JSON string: quotes, backslashes and
 * controls escaped, what is not UTF-8 as U+FFFD.
 */
int lunary_json_escape(lunary_mem_t *mem, lunary_buf_t *out,
    lunary_str_t bytes);

/*
 * Appends a JSON text (or a piece of a string's inside) that came from the
 * wire, with bytes that are not UTF-8 replaced by U+FFFD and raw control
 * characters inside strings escaped; fast where there are none.
 */
int lunary_json_copy(lunary_mem_t *mem, lunary_buf_t *out, lunary_str_t text);

/* 1 where the whole slice is valid UTF-8 (RFC 3629), else 0 */
int lunary_utf8_valid(lunary_str_t s);

/*
 * A number that is a whole one ("12", "12.0", "1.2e1"), within int64.
 * Returns 1 and sets *n, or 0.
 */
int lunary_json_int(lunary_str_t v, int64_t *n);

/*
 * 1 where the slice is exactly one JSON value by RFC 8259 and its strings are
 * UTF-8 (white space around it allowed), nested at most `depth` deep; else 0.
 */
int lunary_json_valid(lunary_str_t text, unsigned depth);


#endif /* LUNARY_JSON_H */
