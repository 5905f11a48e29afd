/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The relay: from the stream to Lunary's ingestion API.
 *
 * Invariants
 *   - an entry is acknowledged only after Lunary confirmed its events, or
 *     when it became a dead letter in the same step;
 *   - an entry that is sent again is harmless to Lunary, but for chat
 *     messages: these are marked before they are sent, and not sent again
 *     where that may have succeeded;
 *   - a server that is down stops the reading, not the memory: a batch is
 *     tried until it is through; one project's refused key stops only it.
 */

#ifndef LW_RELAY_H
#define LW_RELAY_H

#include "events.h"
#include "group.h"
#include "http.h"
#include "people.h"


#define LW_RELAY_TOLD   32         /* clients may choose what an app is
                                      called: more are not told              */


typedef enum {
    LW_ITEM_SEND = 0,
    LW_ITEM_SKIP,                  /* acknowledged, nothing is sent          */
    LW_ITEM_HOLD,                  /* kept: its start may come, or others
                                      may show whether it is at fault        */
    LW_ITEM_DONE,                  /* confirmed                              */
    LW_ITEM_DEAD,
    LW_ITEM_LEFT                   /* stays pending, is claimed again later  */
} lw_item_e;


typedef struct {
    lw_entry_t            entry;
    lw_item_e             state;
    const lw_project_t   *project;
    const char           *reason;
    lunary_str_t          run_id;
    lunary_str_t          parent_id;
    lunary_str_t          user;
    lunary_str_t          event_name;    /* of an SDK's event                */
    lw_text_t             text;          /* what an event's ids decode to:
                                            they point into it, it stays     */
    lw_text_t             words;         /* Lunary's, of why it refused it   */
    int64_t               started_at;
    int64_t               failed_at;     /* lw_relay_tick(): then a suspect  */
    int64_t               tried_at;      /* as a suspect                     */
    unsigned              own_known:1;   /* Redis knows the run...           */
    unsigned              own_proxied:1; /* ...as one of the proxy           */
    unsigned              parent_known:1;
    unsigned              marked:1;      /* its chats may have been sent     */
    unsigned              chats;         /* in the events, at chat_start     */
    unsigned              confirmed:1;
    unsigned              failed:1;
    unsigned              unclear:1;     /* one of several, some refused     */
    unsigned              chats_refused;
    size_t                taken_at;      /* among an answer's results, from  */
    size_t                refused_at;    /* 1 on: the last, and the first    */
    char                  ids[2][40];    /* of chat messages                 */
    size_t                start;         /* in the events' text              */
    size_t                chat_start;
    size_t                end;           /* 0: not composed in this round    */
} lw_item_t;


typedef struct {
    lw_item_t            *items;
    size_t                n;
    size_t                cap;
    size_t                held;          /* the first ones: from before      */
    int                   last;          /* nothing more will be read        */
    lw_item_t           **begun;         /* by run: what begins it; of link  */
    size_t                slots;
    lw_people_t           people;
    lw_text_t             events;
    lw_text_t             body;
    lw_text_t             key;
    lw_http_t             http;
    char                  url[1024];
    int64_t               blocked[LW_PROJECTS_MAX];   /* lw_clock() until    */
    int64_t               last_success;       /* lw_relay_tick()              */
    int64_t               tick;
    int64_t               excused_at;    /* those that are held              */
    int64_t               suspects_at;   /* when they are tried next...      */
    int64_t               suspects_pause;     /* ...which is so many ms off  */
    size_t                suspects;
    size_t                suspects_size;      /* in bytes                    */
    uint64_t              unassigned;    /* buried, for want of a project    */
    uint64_t              told[LW_RELAY_TOLD];     /* such apps, by hash     */
    size_t                ntold;
} lw_relay_t;


int lw_relay(lw_t *w, int argc, char **argv);


/*
 * relay_send.c: sends the events of items [0, n) of one project, chosen by
 * state SEND and project, and sets their states.  LW_OK, LW_REDIS, LW_STOPPED
 * or LW_REMOTE (--once: given up).
 */
int lw_relay_send(lw_t *w, lw_relay_t *r, const lw_project_t *project);


#endif /* LW_RELAY_H */
