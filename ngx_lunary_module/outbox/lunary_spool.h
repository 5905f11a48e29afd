/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The spool: a ring of records in a preallocated, memory-mapped file, or in
 * anonymous memory.  docs/reliability.md has the format and the argument why
 * it can be read after any crash.  Plain C: it sees neither nginx nor Redis.
 *
 * Invariants
 *   - a sequence is given to one record of a file only; a file that was found
 *     (adopted) is never appended to;
 *   - the bytes of a record that is not acknowledged are never written again;
 *   - appending and reading make no system call and allocate nothing;
 *   - whoever holds the lock of the file is the only one who uses it.
 *
 * A spool has three positions, in this order: `first` is the oldest record
 * whose bytes are still whole, `head` the first that is not acknowledged,
 * `send` the first that the sender has not settled.
 */

#ifndef LUNARY_SPOOL_H
#define LUNARY_SPOOL_H

#include <stddef.h>
#include <stdint.h>


#define LUNARY_SPOOL_VERSION     1
#define LUNARY_SPOOL_DATA        8192          /* where records begin        */
#define LUNARY_SPOOL_PREFIX      47            /* a record's head, in RESP   */
#define LUNARY_SPOOL_TARGET_MAX  450
#define LUNARY_SPOOL_MIN_SIZE    (256 * 1024)
#define LUNARY_SPOOL_MAX_SIZE    ((size_t) 1 << 40)
#define LUNARY_SPOOL_MAX_RECORD  (16 * 1024 * 1024)
#define LUNARY_SPOOL_KINDS       2
#define LUNARY_SPOOL_PIECES      32
#define LUNARY_SPOOL_RECENT      4096          /* 64 KiB: whose heads are at
                                                  hand                       */
#define LUNARY_SPOOL_SUFFIX      ".spool"
#define LUNARY_SPOOL_NAME_LEN    38            /* 32 digits and the suffix   */
#define LUNARY_SPOOL_TMP_SUFFIX  ".tmp"        /* while it is made           */
#define LUNARY_SPOOL_TMP_LEN     36


typedef enum {
    LUNARY_SPOOL_OK = 0,
    LUNARY_SPOOL_ERRNO,            /* a system call failed: sp->err, sp->call*/
    LUNARY_SPOOL_NOMEM,
    LUNARY_SPOOL_BUSY,             /* locked: its worker lives               */
    LUNARY_SPOOL_GONE,             /* removed in the meantime                */
    LUNARY_SPOOL_NOT_OURS,         /* owner, mode or kind of file            */
    LUNARY_SPOOL_TARGET,           /* its records are for somewhere else     */
    LUNARY_SPOOL_NEWER,            /* of a version we do not know            */
    LUNARY_SPOOL_DAMAGED,          /* no readable head                       */
    LUNARY_SPOOL_RENAMED,          /* or a copy: sp->name is what it was     */
    LUNARY_SPOOL_FULL,
    LUNARY_SPOOL_TOO_LARGE
} lunary_spool_status_e;


typedef struct {
    uint64_t               seq;
    size_t                 off;    /* in the file; adopted: in the index     */
    uint64_t               piece;  /* whose number                           */
} lunary_spool_pos_t;


/* where records lie one behind the other */

typedef struct {
    size_t                 start;
    size_t                 end;    /* 0: the current one                     */
    uint64_t               seq;    /* of its first record                    */
} lunary_spool_piece_t;


typedef struct {
    uint64_t               seq;
    const unsigned char   *data;   /* what Redis is sent, head and fields    */
    size_t                 len;
    uint32_t               hash;
    uint32_t               time;   /* seconds since 1970                     */
    unsigned               fields; /* pairs                                  */
    unsigned               kind;
    int                    refused;/* set aside: not to be sent              */
} lunary_spool_record_t;


/* records that were acknowledged for the first time, by kind */

typedef struct {
    uint64_t               sent[LUNARY_SPOOL_KINDS];
    uint64_t               refused[LUNARY_SPOOL_KINDS];
} lunary_spool_done_t;


typedef struct {
    uint64_t               seq;
    uint64_t               off;
} lunary_spool_entry_t;


/* what a record's head in the file says, too: that has left the caches by the
 * time the record is sent, acknowledged and overwritten */

typedef struct {
    uint32_t               len;    /* of its fields                          */
    uint32_t               hash;
    uint32_t               time;
    uint16_t               fields;
    uint8_t                kind;
    uint8_t                refused;
} lunary_spool_recent_t;


typedef struct {
    unsigned char         *base;
    size_t                 size;
    size_t                 mapped;
    int                    fd;             /* -1: memory only                */
    char                   name[LUNARY_SPOOL_NAME_LEN + 1];
    char                   target[LUNARY_SPOOL_TARGET_MAX + 1];
    uint64_t               epoch;
    uint64_t               generation;
    unsigned               shards;

    lunary_spool_piece_t   pieces[LUNARY_SPOOL_PIECES];
                                           /* by number, the last ones       */
    uint64_t               piece;          /* the current one                */
    size_t                 tail;           /* where the next record goes     */
    size_t                 limit;          /* as far as the piece may go     */
    size_t                 clear;          /* no record whole up to here     */
    size_t                 look;           /* for room in front, from here   */
    uint64_t               next_seq;
    size_t                 window;         /* acknowledged, and yet kept     */
    size_t                 max_record;

    lunary_spool_pos_t     first;
    lunary_spool_pos_t     head;
    lunary_spool_pos_t     send;

    lunary_spool_recent_t *recent;         /* own: the last records by their
                                              sequence, or NULL              */

    size_t                 bytes;          /* of records not acknowledged    */
    uint64_t               unacked[LUNARY_SPOOL_KINDS];
    uint64_t               again[LUNARY_SPOOL_KINDS]; /* counted among them  */
    uint64_t               counted;        /* records up to this sequence    */
    uint64_t               recovered;      /* by this generation, or 0       */

    lunary_spool_entry_t  *index;          /* of an adopted spool            */
    size_t                 nindex;
    uint64_t               missing;        /* sequences that were damaged    */
    int                    retired;        /* its watermark may be gone      */
    int                    truncated;      /* shorter than its head says     */

    int                    err;            /* errno of                       */
    const char            *call;           /* this call                      */
} lunary_spool_t;


typedef struct {
    int                    dirfd;          /* -1: in memory                  */
    size_t                 size;
    const char            *target;
    unsigned               shards;
    uint64_t               generation;
    const unsigned char   *random;         /* 24 bytes                       */
} lunary_spool_conf_t;


/*
 * Makes an empty spool.  OK; ERRNO (disk full, read-only, ...): sp->call says
 * what failed, nothing is left behind.
 */
lunary_spool_status_e lunary_spool_create(lunary_spool_t *sp,
    const lunary_spool_conf_t *conf);

/*
 * Locks and reads the spool `name` of a dead owner.  target: NULL takes any.
 * It may read the whole file: not for an event loop.  Everything but OK
 * leaves the file as it was.
 */
lunary_spool_status_e lunary_spool_adopt(lunary_spool_t *sp, int dirfd,
    const char *name, const char *target);

/* the same for a mapped image, for tests: no file, no lock, and where sp->name
 * is empty any name will do */
lunary_spool_status_e lunary_spool_recover(lunary_spool_t *sp,
    unsigned char *image, size_t size, const char *target);

/* writes to the disk what was committed before the call: 0, or -1 (errno) */
int lunary_spool_sync(lunary_spool_t *sp);

/* says in the file, durably, that it has nothing left to send */
int lunary_spool_retire(lunary_spool_t *sp);

int lunary_spool_unlink(lunary_spool_t *sp, int dirfd);

/* unmaps and unlocks; the file stays */
void lunary_spool_close(lunary_spool_t *sp);


/*
 * Room for at most n bytes of a record's bulk strings.  NULL: *status is FULL
 * or TOO_LARGE.  Nothing is in the spool before commit(), which takes the
 * first n of them and returns the record's sequence.
 */
unsigned char *lunary_spool_reserve(lunary_spool_t *sp, size_t n,
    lunary_spool_status_e *status);
uint64_t lunary_spool_commit(lunary_spool_t *sp, size_t n, unsigned kind,
    unsigned fields, uint32_t hash, uint32_t now);

/* the record at pos: 1, or 0 at the end; next() moves behind it */
int lunary_spool_read(lunary_spool_t *sp, lunary_spool_pos_t *pos,
    lunary_spool_record_t *rec);
void lunary_spool_next(lunary_spool_t *sp, lunary_spool_pos_t *pos);

/*
 * Everything up to seq is delivered: ack() says what of it was not counted
 * before, counted() notes in the file that it is now.  Nothing else may be
 * done with the spool in between.
 */
void lunary_spool_ack(lunary_spool_t *sp, uint64_t seq,
    lunary_spool_done_t *done);
void lunary_spool_counted(lunary_spool_t *sp);

/* notes which generation's counters have taken in what was found in it */
void lunary_spool_recovered(lunary_spool_t *sp, uint64_t generation);

/* marks a record: it is never sent any more */
void lunary_spool_refuse(lunary_spool_t *sp, lunary_spool_record_t *rec);

/*
 * Takes acknowledgements back: head becomes the first record above seq whose
 * bytes are still there.  Returns how many records that adds.
 */
uint64_t lunary_spool_rewind(lunary_spool_t *sp, uint64_t seq);

/* the acknowledgement noted in the file */
uint64_t lunary_spool_acked(lunary_spool_t *sp);

/* the sequence of the newest record, 0 if there was none */
#define lunary_spool_last(sp)   ((sp)->next_seq - 1)
#define lunary_spool_empty(sp)  ((sp)->head.seq >= (sp)->next_seq)


#endif /* LUNARY_SPOOL_H */
