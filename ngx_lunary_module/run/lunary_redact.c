/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Redaction of a run: the one place where what may not be captured leaves it
 * (lunary_run.h).  What is left of parameters and errors is chosen by what is
 * known to be harmless, never by what is known to be harmful:
 *
 *   - a parameter stays if its name is a plain word and its value a number, a
 *     boolean, null, a word of lunary_run_words, an array of such words, or
 *     an object of lunary_run_objects that holds such members in turn;
 *   - of an error its type and code stay, if they are plain words or numbers;
 *     its message, which may quote prompt or answer, does not.
 *
 * Invariant: a failed allocation removes more, never less.
 */

#include "lunary_run.h"
#include "../inspect/lunary_json.h"


/* the longest name, type or code that is believed to be a word */
#define LUNARY_RUN_WORD   64

/* how deep objects of parameters are followed */
#define LUNARY_RUN_DEPTH  4


static const lunary_str_t  lunary_run_words[] = {
    lunary_string("adaptive"),
    lunary_string("allowed_tools"),
    lunary_string("any"),
    lunary_string("audio"),
    lunary_string("auto"),
    lunary_string("b64_json"),
    lunary_string("base64"),
    lunary_string("batch"),
    lunary_string("concise"),
    lunary_string("custom"),
    lunary_string("default"),
    lunary_string("detailed"),
    lunary_string("disabled"),
    lunary_string("enabled"),
    lunary_string("flex"),
    lunary_string("float"),
    lunary_string("function"),
    lunary_string("grammar"),
    lunary_string("high"),
    lunary_string("image"),
    lunary_string("json"),
    lunary_string("json_object"),
    lunary_string("json_schema"),
    lunary_string("low"),
    lunary_string("max"),
    lunary_string("medium"),
    lunary_string("minimal"),
    lunary_string("mp3"),
    lunary_string("none"),
    lunary_string("off"),
    lunary_string("on"),
    lunary_string("opus"),
    lunary_string("pcm16"),
    lunary_string("priority"),
    lunary_string("required"),
    lunary_string("scale"),
    lunary_string("standard"),
    lunary_string("standard_only"),
    lunary_string("text"),
    lunary_string("tool"),
    lunary_string("url"),
    lunary_string("validated"),
    lunary_string("verbose_json"),
    lunary_string("wav"),
    lunary_string("xhigh"),
    lunary_string("ANY"),
    lunary_string("AUDIO"),
    lunary_string("AUTO"),
    lunary_string("IMAGE"),
    lunary_string("NONE"),
    lunary_string("TEXT"),
    lunary_string("VALIDATED"),
    lunary_string("application/json"),
    lunary_string("text/plain"),
    lunary_null_str
};


static const lunary_str_t  lunary_run_objects[] = {
    lunary_string("format"),
    lunary_string("functionCallingConfig"),
    lunary_string("function_calling_config"),
    lunary_string("generationConfig"),
    lunary_string("generation_config"),
    lunary_string("inferenceConfig"),
    lunary_string("options"),
    lunary_string("output_config"),
    lunary_string("parameters"),
    lunary_string("reasoning"),
    lunary_string("response_format"),
    lunary_string("stream_options"),
    lunary_string("text"),
    lunary_string("textGenerationConfig"),
    lunary_string("thinking"),
    lunary_string("thinkingConfig"),
    lunary_string("thinking_config"),
    lunary_string("toolConfig"),
    lunary_string("tool_choice"),
    lunary_string("tool_config"),
    lunary_null_str
};


static void lunary_run_take(lunary_run_t *run, lunary_field_e f,
    lunary_buf_t *scratch, size_t from, size_t to);
static void lunary_run_params(lunary_buf_t *out, lunary_str_t object,
    unsigned depth);
static int lunary_run_error(lunary_mem_t *mem, lunary_buf_t *out,
    lunary_str_t object);
static int lunary_run_plain(lunary_str_t s);
static int lunary_run_number(lunary_str_t s);
static int lunary_run_listed(lunary_str_t s, const lunary_str_t *list);
static int lunary_run_harmless(lunary_str_t value);
static void lunary_run_cut(lunary_run_t *run);


int
lunary_run_redact(lunary_run_t *run, unsigned capture, lunary_mem_t *mem,
    lunary_buf_t *scratch)
{
    int     rc;
    size_t  params, error, end;

    if ((capture & LUNARY_CAPTURE_FULL) == LUNARY_CAPTURE_FULL) {
        return LUNARY_OK;
    }

    rc = LUNARY_OK;

    /* scratch may move while it grows: slices are taken when all is in */

    params = scratch->len;

    if (!(capture & LUNARY_CAPTURE_INPUT)
        && lunary_run_has(run, LUNARY_F_PARAMS))
    {
        rc = lunary_buf_reserve(mem, scratch,
                                run->value[LUNARY_F_PARAMS].len + 1);

        if (rc == LUNARY_OK) {
            lunary_run_params(scratch, run->value[LUNARY_F_PARAMS], 0);
        }
    }

    error = scratch->len;

    if (rc == LUNARY_OK && lunary_run_has(run, LUNARY_F_ERROR)) {
        rc = lunary_run_error(mem, scratch, run->value[LUNARY_F_ERROR]);
    }

    end = scratch->len;

    if (rc != LUNARY_OK) {
        scratch->len = params;
        error = params;
        end = params;
    }

    /* without memory they go whole: what may not be kept never stays */

    if (!(capture & LUNARY_CAPTURE_INPUT)) {
        lunary_run_set(run, LUNARY_F_INPUT, lunary_str(NULL, 0));
        lunary_run_take(run, LUNARY_F_PARAMS, scratch, params, error);
    }

    if (!(capture & LUNARY_CAPTURE_OUTPUT)) {
        lunary_run_set(run, LUNARY_F_OUTPUT, lunary_str(NULL, 0));
    }

    lunary_run_take(run, LUNARY_F_ERROR, scratch, error, end);

    lunary_run_cut(run);

    return rc;
}


/* sets a field to what lies between two places of scratch, maybe nothing */

static void
lunary_run_take(lunary_run_t *run, lunary_field_e f, lunary_buf_t *scratch,
    size_t from, size_t to)
{
    lunary_str_t  value;

    value = lunary_str(NULL, 0);

    if (from != to) {
        value = lunary_str(scratch->data + from, to - from);
    }

    lunary_run_set(run, f, value);
}


/* appends the harmless members as an object, or nothing where none is left:
 * what is kept is never longer than what was there, so there is room for it */

static void
lunary_run_params(lunary_buf_t *out, lunary_str_t object, unsigned depth)
{
    size_t              start, member, value;
    lunary_str_t        key, val;
    lunary_json_iter_t  it;

    start = out->len;

    lunary_json_iter(&it, object);

    while (lunary_json_member(&it, &key, &val)) {

        if (!lunary_run_plain(key)) {
            continue;
        }

        member = out->len;

        out->data[out->len++] = (member == start) ? '{' : ',';
        out->data[out->len++] = '"';

        memcpy(out->data + out->len, key.data, key.len);
        out->len += key.len;

        out->data[out->len++] = '"';
        out->data[out->len++] = ':';

        value = out->len;

        if (lunary_run_harmless(val)) {
            memcpy(out->data + out->len, val.data, val.len);
            out->len += val.len;

        } else if (lunary_json_is_object(val) && depth < LUNARY_RUN_DEPTH
                   && lunary_run_listed(key, lunary_run_objects))
        {
            lunary_run_params(out, val, depth + 1);
        }

        if (out->len == value) {
            out->len = member;
        }
    }

    if (out->len != start) {
        out->data[out->len++] = '}';
    }
}


/* appends {"type":...,"code":...} of what is there, or nothing */

static int
lunary_run_error(lunary_mem_t *mem, lunary_buf_t *out, lunary_str_t object)
{
    size_t        i, start;
    lunary_str_t  vals[2];

    static const lunary_str_t  keys[] = {
        lunary_string("type"),
        lunary_string("code")
    };

    start = out->len;

    (void) lunary_json_pick(object, keys, vals, 2);

    for (i = 0; i < 2; i++) {

        if (!lunary_run_number(vals[i])
            && !lunary_run_plain(lunary_json_inside(vals[i])))
        {
            continue;
        }

        if (lunary_buf_append(mem, out, out->len == start ? "{\"" : ",\"", 2)
               != LUNARY_OK
            || lunary_buf_append(mem, out, keys[i].data, keys[i].len)
               != LUNARY_OK
            || lunary_buf_lit(mem, out, "\":") != LUNARY_OK
            || lunary_buf_append(mem, out, vals[i].data, vals[i].len)
               != LUNARY_OK)
        {
            return LUNARY_NOMEM;
        }
    }

    return (out->len == start) ? LUNARY_OK : lunary_buf_lit(mem, out, "}");
}


/* 1 where s looks like an identifier: short, of letters, digits and _-.: */

static int
lunary_run_plain(lunary_str_t s)
{
    size_t         i;
    unsigned char  c, l;

    if (s.len == 0 || s.len > LUNARY_RUN_WORD) {
        return 0;
    }

    for (i = 0; i < s.len; i++) {
        c = s.data[i];
        l = (unsigned char) (c | 0x20);

        if ((l < 'a' || l > 'z') && (c < '0' || c > '9')
            && c != '_' && c != '-' && c != '.' && c != ':')
        {
            return 0;
        }
    }

    return 1;
}


/* told by every byte: a lenient reader's number is told by its first */

static int
lunary_run_number(lunary_str_t s)
{
    size_t         i;
    unsigned char  c;

    if (lunary_json_type(s) != LUNARY_JSON_NUMBER || s.len > LUNARY_RUN_WORD) {
        return 0;
    }

    for (i = 0; i < s.len; i++) {
        c = s.data[i];

        if ((c < '0' || c > '9') && c != '-' && c != '+' && c != '.'
            && c != 'e' && c != 'E')
        {
            return 0;
        }
    }

    return 1;
}


static int
lunary_run_listed(lunary_str_t s, const lunary_str_t *list)
{
    for ( /* void */ ; list->len != 0; list++) {

        if (s.len == list->len && memcmp(s.data, list->data, s.len) == 0) {
            return 1;
        }
    }

    return 0;
}


static int
lunary_run_harmless(lunary_str_t value)
{
    size_t              n;
    lunary_str_t        v;
    lunary_json_iter_t  it;

    switch (lunary_json_type(value)) {

    case LUNARY_JSON_NUMBER:
        return lunary_run_number(value);

    case LUNARY_JSON_TRUE:
    case LUNARY_JSON_FALSE:
    case LUNARY_JSON_NULL:
        return lunary_eq(value, "true") || lunary_eq(value, "false")
               || lunary_eq(value, "null");

    case LUNARY_JSON_STRING:
        return lunary_run_listed(lunary_json_inside(value), lunary_run_words);

    case LUNARY_JSON_ARRAY:

        n = 0;
        lunary_json_iter(&it, value);

        while (lunary_json_element(&it, &v)) {

            if (!lunary_json_is_string(v) || !lunary_run_harmless(v)) {
                return 0;
            }

            n++;
        }

        return n != 0;

    default:
        return 0;
    }
}


/* `truncated` names only fields that are still there */

static void
lunary_run_cut(lunary_run_t *run)
{
    int           input, output;
    lunary_str_t  cut;

    if (!lunary_run_has(run, LUNARY_F_TRUNCATED)) {
        return;
    }

    cut = run->value[LUNARY_F_TRUNCATED];

    input = lunary_run_has(run, LUNARY_F_INPUT)
            && (lunary_eq(cut, "input") || lunary_eq(cut, "input,output"));

    output = lunary_run_has(run, LUNARY_F_OUTPUT)
             && (lunary_eq(cut, "output") || lunary_eq(cut, "input,output"));

    if (input && output) {
        return;
    }

    if (input) {
        lunary_run_set_lit(run, LUNARY_F_TRUNCATED, "input");

    } else if (output) {
        lunary_run_set_lit(run, LUNARY_F_TRUNCATED, "output");

    } else {
        lunary_run_set(run, LUNARY_F_TRUNCATED, lunary_str(NULL, 0));
    }
}
