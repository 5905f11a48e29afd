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
 *     copy; a reduction looks at the text a few times and frees at least
 *     max/64 of it;
 *   - the result depends on the bytes only, not on how they were split;
 *   - memory: at most max + a few KiB, or max/32 where that is more; while a
 *     string is being cut there may be 3/2 of cut beside it;
 *   - depth is bounded (LUNARY_DOC_DEPTH), and a number has at most 1024 bytes:
 *     what is more is LUNARY_LIMIT;
 *   - the text is valid JSON and UTF-8: only whole elements, members and the
 *     middles of strings are taken out, never in an escape, a surrogate pair
 *     or a UTF-8 sequence, and bytes of strings that are not UTF-8 become
 *     U+FFFD;
 *   - strict (requests): RFC 8259 to the letter, one value, only white space
 *     behind it; otherwise (responses) a BOM is passed over, raw control
 *     characters in strings are escaped, words that are no value (NaN) become
 *     null, what stands behind the value is not looked at, the numbers of a
 *     long vector are believed, and of white space between two tokens the
 *     first 256 bytes are kept.
 *
 * How it is reduced:
 *   1. media: base64 of 256 bytes and more (in data: URLs anywhere; in values
 *      of the members `data` `bytes` `result` `b64_json` `file_data`
 *      `embedding` `signature` `thoughtSignature` `thought_signature`
 *      `encrypted_content` `partial_image_b64`, and in elements of `images`)
 *      never enters at all: the URL keeps its type,
 *      `data:image/png;base64,[12345 bytes]`, others become `[12345 bytes]`;
 *      the bytes are those of the base64.  More than 256 numbers at the start
 *      of an array (or of arrays in it) under `embedding` `embeddings` `data`
 *      `values` `input` `float` `int8` `uint8` `binary` `ubinary` leave one
 *      string, `["[12345 bytes]"]`;
 *   2. once the text would exceed max by more, and then to the end: white space
 *      between tokens goes, and strings longer than cut (by more than 64 bytes,
 *      for which the marker would not pay) keep their first and last cut/2
 *      bytes around `...[N bytes]...` (U+2026, N bytes taken out).  A key
 *      longer than cut, or 16 KiB, always loses its end;
 *   3. still over: the oldest elements of the largest array, at any depth,
 *      become one element, {"role":"omitted","content":"...[N bytes]..."}
 *      among objects, a string "...[N bytes]..." otherwise; as few as will do;
 *   4. still over: the smallest object or array that suffices becomes null;
 *      at last whole members go, the newest first.
 */

#ifndef LUNARY_DOC_H
#define LUNARY_DOC_H

#include "lunary_base.h"


#define LUNARY_DOC_DEPTH   512

#define LUNARY_DOC_STRICT  0x01


typedef struct lunary_doc_s  lunary_doc_t;


/*
 * A new document.  max bounds the text (2 KiB at least); cut is the string
 * length above which a reduction cuts (0: max/16; max/4 at most).  NULL where
 * memory is out.
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

/* before that: 1 where it broke off within a string, which close() is going to
 * end: the last one of its text */
int lunary_doc_torn(const lunary_doc_t *d);

/* the text; valid after finish() or close() returned LUNARY_OK, until reset,
 * close or destroy */
lunary_str_t lunary_doc_text(const lunary_doc_t *d);

/* an array in the text that lost elements, mostly the longest value of all: so
 * nobody need look for its end; empty where it is not known */
lunary_str_t lunary_doc_array(const lunary_doc_t *d);

/* hands over the memory that the text lies in: the document is empty then,
 * good for reset and destroy */
void lunary_doc_release(lunary_doc_t *d, lunary_buf_t *b);

/*
 * By how much rules 2 to 4 made the text shorter, 0 where nothing was taken
 * out: with it, the text is as long as it was (media and white space do not
 * count).
 */
size_t lunary_doc_removed(const lunary_doc_t *d);

/* the same, of one top-level member, by its key as written; at most 16 members
 * are kept account of, with keys of at most 47 bytes */
size_t lunary_doc_removed_of(const lunary_doc_t *d, lunary_str_t key);


/*
 * The same reduction for a complete JSON value in memory: appends to out the
 * text of v in at most max bytes (rules 2 to 4, with max/16 for cut; `null`
 * where nothing else fits).  *removed becomes what lunary_doc_removed() would
 * be, 0 where v fitted and was copied.  v is trusted to be valid JSON.
 */
int lunary_doc_cap(lunary_mem_t *mem, lunary_buf_t *out, lunary_str_t v,
    size_t max, size_t *removed);

/* ... where it lies: b holds the value and nothing else */
void lunary_doc_shrink(lunary_buf_t *b, size_t max, size_t *removed);


#endif /* LUNARY_DOC_H */
