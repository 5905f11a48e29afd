/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The answer while it is assembled: choices with their text, reasoning,
 * refusal, tool calls and finish reason.  Dialects add what events and bodies
 * say through lunary_call_internal.h; at the end it is written once, as one
 * message in Lunary's form, or an array of them.
 *
 * Invariants
 *   - all texts share one budget of the field's size (lunary_text.h);
 *   - choices, tools and parts are bounded in number; what is over is counted
 *     as lost, never an error;
 *   - a choice or tool never moves, so pointers to it stay good.
 */

#ifndef LUNARY_OUTPUT_H
#define LUNARY_OUTPUT_H

#include "lunary_base.h"
#include "lunary_text.h"


#define LUNARY_OUTPUT_CHOICES  128
#define LUNARY_OUTPUT_TOOLS    256        /* of all choices together         */
#define LUNARY_OUTPUT_ID       256        /* bytes of an id, a name          */
#define LUNARY_OUTPUT_PARTS    32768      /* bytes of a choice's other parts */


typedef struct lunary_tool_s    lunary_tool_t;
typedef struct lunary_choice_s  lunary_choice_t;

struct lunary_tool_s {
    int64_t               index;          /* the wire's number for it, or -1 */
    unsigned              object:1;       /* its arguments came as a value   */
    unsigned              members:1;      /* ... come as members, one by one */
    unsigned              in_string:1;    /* ... the last is an open string  */
    lunary_buf_t          member;         /* the last one's name             */
    lunary_buf_t          id;             /* escaped insides                 */
    lunary_buf_t          name;
    lunary_text_t         args;
    lunary_tool_t        *next;
};

struct lunary_choice_s {
    int64_t               index;
    lunary_text_t         text;
    lunary_text_t         reasoning;
    lunary_text_t         refusal;
    lunary_text_t         transcript;     /* of what was spoken              */
    lunary_text_t         plan;           /* what is to be done with tools   */
    lunary_buf_t          parts;          /* other content parts, by commas  */
    lunary_buf_t          raw;            /* content that is no text         */
    lunary_buf_t          finish_reason;  /* decoded                         */
    lunary_tool_t        *tools;
    lunary_tool_t        *last_tool;
    lunary_choice_t      *next;
};

typedef struct {
    lunary_mem_t         *mem;
    lunary_budget_t       budget;
    size_t                max;            /* of the field's JSON             */
    lunary_choice_t      *choices;        /* in the order of their indices   */
    lunary_choice_t      *last;           /* the one used last               */
    unsigned              nchoices;
    unsigned              ntools;
    uint64_t              lost;           /* bytes not even counted in texts */
    unsigned              nomem:1;
} lunary_output_t;


/* max: bytes of the field; keep is 0 where sizes are enough */
void lunary_output_init(lunary_output_t *o, lunary_mem_t *mem, size_t max,
    int keep);
void lunary_output_free(lunary_output_t *o);

/* finds or adds; NULL where there is no room */
lunary_choice_t *lunary_output_choice(lunary_output_t *o, int64_t index);
lunary_tool_t *lunary_output_tool_new(lunary_output_t *o,
    lunary_choice_t *ch, int64_t index);

/* the newest tool of that wire number or id; NULL where there is none */
lunary_tool_t *lunary_output_tool(lunary_choice_t *ch, int64_t index);
lunary_tool_t *lunary_output_tool_id(lunary_choice_t *ch, lunary_str_t id);

/* adds to a bounded small string (id, name): escaped inside */
void lunary_output_small(lunary_output_t *o, lunary_buf_t *b,
    lunary_str_t inside);

/* replaces a tool's arguments by a JSON value */
void lunary_output_tool_value(lunary_output_t *o, lunary_tool_t *tool,
    lunary_str_t value);

/* forgets a tool's arguments */
void lunary_output_tool_reset(lunary_output_t *o, lunary_tool_t *tool);

/*
 * Adds a member to a tool's arguments, or to the string that is its value
 * where the last one had the same name (an escaped inside).
 */
void lunary_output_tool_member(lunary_output_t *o, lunary_tool_t *tool,
    lunary_str_t name, lunary_str_t value);

/* adds a content part (an object's JSON) */
void lunary_output_part(lunary_output_t *o, lunary_choice_t *ch,
    lunary_str_t part);

/*
 * Writes the field.  Returns LUNARY_OK with *out filled (empty where there
 * was no choice), *size the bytes it would have uncut.  The texts are given
 * back as they are written: this is the last thing done with o.
 */
int lunary_output_write(lunary_output_t *o, lunary_buf_t *out,
    uint64_t *size);


#endif /* LUNARY_OUTPUT_H */
