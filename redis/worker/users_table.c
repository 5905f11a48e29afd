/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The ledger's users in columns.  A column is as wide as its widest cell, and
 * where a terminal is too narrow for all of them the least wanted are left
 * out.
 */

#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "display.h"
#include "users.h"


#define LW_GAP   2


static size_t lw_users_room(void);
static void lw_users_fit(lw_t *w, const lw_table_t *t, size_t *widths);
static void lw_users_line(lw_t *w, const lw_row_t *r, const size_t *widths,
    lw_text_t *out);
static void lw_users_id(const lw_row_t *r, lw_text_t *cell);
static void lw_users_claim(const lw_row_t *r, lw_text_t *cell);
static void lw_users_name(const lw_row_t *r, lw_text_t *cell);
static void lw_users_group(const lw_row_t *r, lw_text_t *cell);
static void lw_users_of(const lw_row_t *r, lw_text_t *cell);
static void lw_users_runs(const lw_row_t *r, lw_text_t *cell);
static void lw_users_errors(const lw_row_t *r, lw_text_t *cell);
static void lw_users_input(const lw_row_t *r, lw_text_t *cell);
static void lw_users_output(const lw_row_t *r, lw_text_t *cell);
static void lw_users_cost(const lw_row_t *r, lw_text_t *cell);
static void lw_users_latency(const lw_row_t *r, lw_text_t *cell);
static void lw_users_models(const lw_row_t *r, lw_text_t *cell);
static void lw_users_first(const lw_row_t *r, lw_text_t *cell);
static void lw_users_last(const lw_row_t *r, lw_text_t *cell);
static void lw_users_prop(const lw_row_t *r, const char *name,
    lw_text_t *cell);
static void lw_users_time(int64_t ms, lw_text_t *cell);


static const struct {
    const char     *title;
    int             right;
    size_t          most;          /* columns of the terminal                 */
    int             drop;          /* the highest goes first; 0: never        */
    void          (*cell)(const lw_row_t *r, lw_text_t *cell);
} lw_columns[] = {
    { "USER",       0, 32, 0, lw_users_id },
    { "",           0,  1, 0, lw_users_claim },
    { "NAME",       0, 24, 2, lw_users_name },
    { "GROUP",      0, 16, 3, lw_users_group },
    { "APP",        0, 24, 6, lw_users_of },
    { "RUNS",       1, 16, 0, lw_users_runs },
    { "ERRORS",     1, 16, 5, lw_users_errors },
    { "IN",         1, 20, 1, lw_users_input },
    { "OUT",        1, 20, 1, lw_users_output },
    { "COST",       1, 20, 0, lw_users_cost },
    { "LATENCY",    1, 16, 5, lw_users_latency },
    { "MODELS",     0, 40, 4, lw_users_models },
    { "FIRST SEEN", 0, 16, 7, lw_users_first },
    { "LAST SEEN",  0, 16, 0, lw_users_last }
};

#define LW_COLUMNS  (sizeof(lw_columns) / sizeof(lw_columns[0]))


void
lw_users_table(lw_t *w, const lw_table_t *t, lw_text_t *out)
{
    int     color;
    size_t  i, widths[LW_COLUMNS];

    color = lw_display_color(w->options, stdout);

    lw_users_fit(w, t, widths);

    if (color) {
        lw_text_lit(out, "\033[1m");
    }

    lw_users_line(w, NULL, widths, out);

    if (color) {
        lw_text_lit(out, "\033[0m");
    }

    lw_text_lit(out, "\n");

    for (i = 0; i < t->n; i++) {
        lw_users_line(w, &t->rows[i], widths, out);
        lw_text_lit(out, "\n");
    }
}


/* a column's width, 0 where it is left out */

static void
lw_users_fit(lw_t *w, const lw_table_t *t, size_t *widths)
{
    size_t     i, k, n, sum, room, worst;
    lw_text_t  cell;

    lw_text_init(&cell, &w->mem);
    sum = 0;

    for (k = 0; k < LW_COLUMNS; k++) {

        widths[k] = strlen(lw_columns[k].title);

        for (i = 0; i < t->n; i++) {

            lw_text_clear(&cell);
            lw_columns[k].cell(&t->rows[i], &cell);

            n = lw_display_width(lw_text_get(&cell));
            widths[k] = n > widths[k] ? n : widths[k];
        }

        if (widths[k] > lw_columns[k].most) {
            widths[k] = lw_columns[k].most;
        }

        sum += widths[k] ? widths[k] + LW_GAP : 0;
    }

    lw_text_free(&cell);

    room = lw_users_room();

    while (sum > room + LW_GAP) {

        for (k = 0, worst = 0; k < LW_COLUMNS; k++) {
            if (widths[k] && (widths[worst] == 0 || lw_columns[k].drop
                                            > lw_columns[worst].drop))
            {
                worst = k;
            }
        }

        if (lw_columns[worst].drop == 0) {
            break;
        }

        sum -= widths[worst] + LW_GAP;
        widths[worst] = 0;
    }
}


static size_t
lw_users_room(void)
{
    struct winsize  size;

    if (isatty(STDOUT_FILENO)
        && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col)
    {
        return size.ws_col;
    }

    return 1000;
}


/* without a row: the titles */

static void
lw_users_line(lw_t *w, const lw_row_t *r, const size_t *widths,
    lw_text_t *out)
{
    size_t     k, gap;
    lw_text_t  cell;

    lw_text_init(&cell, &w->mem);
    gap = 0;

    for (k = 0; k < LW_COLUMNS; k++) {

        if (widths[k] == 0) {
            continue;
        }

        while (gap-- > 0) {
            lw_text_lit(out, " ");
        }

        lw_text_clear(&cell);

        if (r) {
            lw_columns[k].cell(r, &cell);
        } else {
            lw_text_str(&cell, lw_str(lw_columns[k].title));
        }

        lw_display_cell(out, lw_text_get(&cell), widths[k],
                        lw_columns[k].right);
        gap = LW_GAP;
    }

    while (out->buf.len && out->buf.data[out->buf.len - 1] == ' ') {
        out->buf.len--;
    }

    out->failed |= cell.failed;
    lw_text_free(&cell);
}


static void
lw_users_id(const lw_row_t *r, lw_text_t *cell)
{
    if (r->rest == NULL) {
        lw_text_str(cell, r->id);
        return;
    }

    lw_text_str(cell, lw_str(r->rest[0] == 'n' ? "(no user)"
                                               : "(unverified)"));
}


/* nobody has proven it */

static void
lw_users_claim(const lw_row_t *r, lw_text_t *cell)
{
    if (!r->verified && r->rest == NULL) {
        lw_text_lit(cell, "?");
    }
}


static void
lw_users_name(const lw_row_t *r, lw_text_t *cell)
{
    lw_users_prop(r, "name", cell);
}


static void
lw_users_group(const lw_row_t *r, lw_text_t *cell)
{
    lw_users_prop(r, "group", cell);
}


static void
lw_users_of(const lw_row_t *r, lw_text_t *cell)
{
    lw_text_str(cell, r->app);
}


static void
lw_users_runs(const lw_row_t *r, lw_text_t *cell)
{
    lw_display_count(cell, r->runs, 0);
}


static void
lw_users_errors(const lw_row_t *r, lw_text_t *cell)
{
    lw_display_count(cell, r->errors, 0);
}


static void
lw_users_input(const lw_row_t *r, lw_text_t *cell)
{
    lw_display_count(cell, r->input, 0);
}


static void
lw_users_output(const lw_row_t *r, lw_text_t *cell)
{
    lw_display_count(cell, r->output, 0);
}


static void
lw_users_cost(const lw_row_t *r, lw_text_t *cell)
{
    char  cost[32];

    if (r->cost < 0) {
        lw_text_lit(cell, "-");
        return;
    }

    /* in line: to a millionth, half up */

    if (r->cost > 0 && r->cost < 500) {
        lw_text_lit(cell, "<$0.000001");
        return;
    }

    lw_cost_text(cost, (r->cost + 500) / 1000 * 1000);
    lw_text_lit(cell, "$");
    lw_text_str(cell, lw_str(cost));
}


static void
lw_users_latency(const lw_row_t *r, lw_text_t *cell)
{
    lw_display_count(cell, r->latency, 0);

    if (r->latency >= 0) {
        lw_text_lit(cell, " ms");
    }
}


static void
lw_users_models(const lw_row_t *r, lw_text_t *cell)
{
    lunary_str_t         key, val;
    lunary_json_iter_t   it;

    lunary_json_iter(&it, r->models);

    while (lunary_json_member(&it, &key, &val)) {
        lw_text_add(cell, ", ", cell->buf.len ? 2 : 0);
        lw_text_str(cell, key);
    }

    if (cell->buf.len == 0) {
        lw_text_lit(cell, "-");
    }
}


static void
lw_users_first(const lw_row_t *r, lw_text_t *cell)
{
    lw_users_time(r->first, cell);
}


static void
lw_users_last(const lw_row_t *r, lw_text_t *cell)
{
    lw_users_time(r->last, cell);
}


static void
lw_users_prop(const lw_row_t *r, const char *name, lw_text_t *cell)
{
    lunary_str_t  v;

    v = lunary_json_get_n(r->props, name, strlen(name));

    if (lunary_json_is_string(v)) {
        lw_text_plain(cell, v);

    } else if (lunary_json_type(v) == LUNARY_JSON_NUMBER) {
        lw_text_str(cell, v);
    }

    if (cell->buf.len == 0) {
        lw_text_lit(cell, "-");
    }
}


static void
lw_users_time(int64_t ms, lw_text_t *cell)
{
    char       text[32];
    time_t     at;
    struct tm  tm;

    at = (time_t) (ms / 1000);

    if (ms < 0 || localtime_r(&at, &tm) == NULL
        || strftime(text, sizeof(text), "%Y-%m-%d %H:%M", &tm) == 0)
    {
        memcpy(text, "-", 2);
    }

    lw_text_str(cell, lw_str(text));
}
