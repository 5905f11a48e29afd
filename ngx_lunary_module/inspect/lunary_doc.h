/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * One JSON document that arrives in pieces, kept as one bounded, contiguous
 * JSON text: byte for byte what came while that fits, reduced where not.
 * Request bodies, JSON responses and over-long stream events all pass here,
 * so that every dialect reads one thing: a complete text (lunary_json.h).
 *
 * Invariants
 *   - linear in the bytes fed, whatever the split: a feed is one scan and one
 *     copy; a reduction looks at `max` bytes and frees at least max/8;
 *   - memory: at most max + max/8 + a few KiB;
 *   - depth is bounded (LUNARY_DOC_DEPTH): deeper is LUNARY_LIMIT;
 *   - the text stays valid JSON: only whole elements and the middles of
 *     strings are taken out, never in an escape or a UTF-8 sequence;
 *   - strict (requests): RFC 8259 to the letter, one value, only white space
 *     behind it; otherwise (responses) brackets and strings are tracked and
 *     the rest believed.
 *
 * How it is reduced, once the text would exceed max + max/8:
 *   1. media: base64 strings of 256 bytes and more (data: URLs anywhere;
 *      values of the members `data` `b64_json` `file_data` `bytes` `result`
 *      `partial_image_b64` `encrypted_content` `signature`
 *      `thoughtSignature` and elements of `images`) never enter at all: the
 *      URL keeps its type, `data:image/png;base64,[12345 bytes]`, others
 *      become `[12345 bytes]`;  arrays of more than 256 numbers and nothing
 *      else under `embedding`, `embeddings`, `data`, `values` or `input` keep
 *      none of them: `["[N bytes]"]`;
 *   2. strings longer than cut = max_field/16 keep their first and last
 *      cut/2 bytes around `...[N bytes]...` (U+2026, N bytes taken out);
 *   3. still over: the oldest elements of the largest top-level array become
 *      one element, {"role":"omitted","content":"...[N bytes]..."} among
 *      objects, a string "...[N bytes]..." otherwise;
 *   4. still over: the largest member's value becomes null, flagged.
 */

#ifndef LUNARY_DOC_H
#define LUNARY_DOC_H

#include "lunary_base.h"


#define LUNARY_DOC_DEPTH   512

#define LUNARY_DOC_STRICT  0x01


typedef struct lunary_doc_s  lunary_doc_t;


/*
 * A new document.  max bounds the text; cut is the string length above which
 * a reduction cuts (0: max/16).  NULL where memory is out.
 */
lunary_doc_t *lunary_doc_create(lunary_mem_t *mem, size_t max, size_t cut,
    unsigned flags);
void lunary_doc_destroy(lunary_doc_t *d);

/* starts over for another document, keeping the memory */
void lunary_doc_reset(lunary_doc_t *d);

/*
 * Takes the next n bytes.  LUNARY_OK: more may come; LUNARY_DONE: the value
 * is complete (white space may follow, strict: nothing else);  LUNARY_ERROR
 * (malformed, a BOM too), LUNARY_LIMIT (depth), LUNARY_NOMEM: sticky, what
 * came before stays readable through lunary_doc_close().
 */
int lunary_doc_feed(lunary_doc_t *d, const unsigned char *p, size_t n);

/* no more bytes: LUNARY_OK where one whole value was there, else the error */
int lunary_doc_finish(lunary_doc_t *d);

/*
 * Makes valid JSON of a document that broke off: ends the open string,
 * completes or drops the last member, closes the brackets.
 * LUNARY_OK, or LUNARY_ERROR where there is nothing to keep.
 */
int lunary_doc_close(lunary_doc_t *d);

/* the text; valid after finish() or close() returned LUNARY_OK, until reset,
 * close or destroy */
lunary_str_t lunary_doc_text(const lunary_doc_t *d);

/* bytes taken out by rules 2 to 4 (0: nothing was); media do not count */
size_t lunary_doc_removed(const lunary_doc_t *d);

/* the same, of one top-level member */
size_t lunary_doc_removed_of(const lunary_doc_t *d, lunary_str_t key);


/*
 * The same reduction for a complete JSON value in memory: appends to out the
 * text of v in at most max bytes (strings above max/16 are cut, then the
 * oldest elements go).  *removed becomes the bytes taken out, 0 where v fitted
 * and was copied.  v is trusted to be valid JSON.
 */
int lunary_doc_cap(lunary_mem_t *mem, lunary_buf_t *out, lunary_str_t v,
    size_t max, size_t *removed);


#endif /* LUNARY_DOC_H */
