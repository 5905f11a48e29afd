# Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
"""The benchmarks' figures as tables in Markdown, and into the documentation.

docs/performance.md holds each table between two comments,

    <!-- bench: NAME -->
    <!-- /bench -->
"""

import datetime
import os
import pathlib
import re

import plot
from cases import AIMS, LATENCY_AIMS, LUA_AIMS


# on a machine that does something else, too, latencies say nothing
quiet = True


def lines(head, left, rows):
    """A table; so many columns are words."""
    width = [max(len(x) for x in column) for column in zip(head, *rows)]

    def line(cells):
        return "| " + " | ".join(
            c.ljust(w) if i < left else c.rjust(w)
            for i, (c, w) in enumerate(zip(cells, width))) + " |"

    rule = "|" + "|".join("-" * (w + 2) if i < left else "-" * (w + 1) + ":"
                          for i, w in enumerate(width)) + "|"
    return "\n".join([line(head), rule, *map(line, rows)])


def us(seconds, sign=""):
    return format(seconds * 1e6, sign + ".0f")


def fast(results):
    """As fast as answers come."""
    head = ("case", "", "CPU us/req", "req/s", "p50 us", "p99 us", "RSS MiB",
            "req/CPU s vs plain")
    rows = []
    for case, result in results.items():
        label = case
        for name in ("plain", "module", "light", "live", "floor", "lua"):
            if name not in result:
                continue
            r = result[name]
            ratio = (result["ratio"] if name == "module"
                     else result["plain"]["cpu"] / r["cpu"])
            rows.append((label, name, "%.1f" % r["cpu"], "%.0f" % r["rps"],
                         us(r["p50"]), us(r["p99"]),
                         "%.1f" % (r["rss"] / 1024), "%.2f" % ratio))
            label = ""
    return lines(head, 2, rows)


def rates(results):
    """Both at the same rate."""
    head = ("case", "req/s", "", "CPU us/req", "p50 us", "p99 us",
            "added p50", "added p99", "req/CPU s vs plain")
    rows = []
    for case, r in results.items():
        p, m = r["plain"], r["module"]
        rows.append((case, "%.0f" % r["rate"], "plain", "%.1f" % p["cpu"],
                     us(p["p50"]), us(p["p99"]), "", "", "1.00"))
        rows.append(("", "", "module", "%.1f" % m["cpu"], us(m["p50"]),
                     us(m["p99"]), us(r["more"]["p50"], "+"),
                     us(r["more"]["p99"], "+"), "%.2f" % r["ratio"]))
    return lines(head, 3, rows)


def ways(r):
    """An event's way from the upstream to the client."""
    head = ("", "first event p50 us", "p99 us", "any event p50 us", "p99 us")
    keys = ("way_p50", "way_p99", "event_p50", "event_p99")
    rows = [(name, *(us(r[name][k]) for k in keys))
            for name in ("plain", "module")]
    rows.append(("added", *(us(r["more"][k], "+") for k in keys)))
    return lines(head, 1, rows)


def uploads(r):
    """Small calls beside an upload."""
    head = ("", "p50 us", "p99 us", "bodies a round")
    rows = [(name, us(r[name]["p50"]), us(r[name]["p99"]),
             "%.0f" % r[name]["uploads"]) for name in ("plain", "module")]
    return lines(head, 1, rows)


def aims(results):
    """What was aimed at, and what came of it."""
    head = ("aim", "at least", "strive for", "as fast as can be",
            "at the same rate", "reached")
    rows = []

    def row(name, aim, got, same, enough, latency=False):
        values = [v for v in (got, same) if v is not None]
        if not values:
            return
        yes = [enough(v) for v in values]
        rows.append((name, aim[0], aim[1],
                     *("" if v is None else format(v, fmt)
                       for v, fmt in ((got, aim[2]), (same, aim[2]))),
                     "the machine was busy" if latency and not quiet else
                     "yes" if all(yes) else "no" if not any(yes)
                     else "only at the same rate" if yes[-1]
                     else "only as fast as can be"))

    for case, (least, best) in AIMS.items():
        got = results.get(case, {}).get("ratio")
        same = results.get("same rate: " + case, {}).get("ratio")
        row(case, ("%.2f" % least, "%.2f" % best, ".2f"), got, same,
            lambda v, least=least: round(v, 2) >= least)

    for case, (least, best) in LUA_AIMS.items():
        r = results.get(case, {})
        if "lua" in r:
            row(case + ", times Lua's", (f"{least}", f"{best}", ".1f"),
                r["lua"]["cpu"] / r["module"]["cpu"], None,
                lambda v, least=least: round(v, 1) >= least)

    for name, r in results.items():
        if name.startswith("idle: "):
            for key, most in LATENCY_AIMS.items():
                row(f"{name}, added {key} us",
                    ("at most " + us(most), "", ".0f"), None,
                    r["more"][key] * 1e6,
                    lambda v, most=most: v <= most * 1e6, True)

    if "upload" in results:
        r = results["upload"]
        row("p99 beside an upload, times plain nginx's",
            ("at most 1.10", "", ".2f"), None,
            r["module"]["p99"] / r["plain"]["p99"], lambda v: v <= 1.10,
            True)

    return lines(head, 1, rows) if rows else ""


def tables(results):
    """[(title, table)] of what was measured"""
    found = []
    kinds = {"": {}, "same rate": {}, "idle": {}}
    for name, r in results.items():
        if name not in ("first event", "upload"):
            kind, _, case = name.rpartition(": ")
            kinds[kind][case] = r

    if kinds[""]:
        found.append(("as fast as answers come", fast(kinds[""])))
    if kinds["same rate"]:
        found.append(("same rate", rates(kinds["same rate"])))
    if kinds["idle"]:
        found.append(("idle", rates(kinds["idle"])))
    if "first event" in results:
        found.append(("first event", ways(results["first event"])))
    if "upload" in results:
        found.append(("upload", uploads(results["upload"])))
    if aims(results):
        found.append(("aims", aims(results)))
    return found


def congestion():
    file = pathlib.Path("/proc/sys/net/ipv4/tcp_congestion_control")
    return file.read_text().strip() if file.exists() else "not known"


def docs(folder, results, version, args):
    page = folder / "performance.md"
    text = page.read_text()
    release = re.search(r"^## \[?([0-9.]+)", (
        folder.parent / "CHANGELOG.md").read_text(), re.M).group(1)
    about = ("%s, version %s, %s, %d cores, `t/bench/run.py --rounds %d "
             "--seconds %d`;\nwhat others did with the machine when it began: "
             "a load of %.1f; TCP's congestion control: %s." % (
                 datetime.date.today(), release,
                 version.removeprefix("nginx version: "), os.cpu_count(),
                 args.rounds, args.seconds, args.others, congestion()))
    for name, table in [("about", about), *tables(results)]:
        text, n = re.subn(r"(?s)(<!-- bench: %s -->\n).*?(<!-- /bench -->)"
                          % re.escape(name),
                          lambda m: m[1] + "\n" + table + "\n\n" + m[2], text)
        if n != 1:
            raise SystemExit(f"{page}: {n} places for “{name}”")
    page.write_text(text)
    (folder / "performance.svg").write_text(plot.draw(results))
    print(f"{page} and its plot are those of this run")
