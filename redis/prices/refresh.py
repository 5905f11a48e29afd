#!/usr/bin/env python3
# Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
"""Writes prices.json from the genai-prices package (PyPI, MIT licence).

    refresh.py [FILE]

What the worker needs and nothing else: how models and providers are matched,
the prices with their dates, hours and tiers, and the units that they are for.
Decimals stay text.  Regular expressions become POSIX ones: \\d is written
out, a negative look-ahead at the start becomes a clause of its own; what
cannot be written so ends the program, and nothing is changed.
"""

import datetime
import importlib.metadata
import json
import pathlib
import re
import sys

from genai_prices import types
from genai_prices.data import providers
from genai_prices.data_units import unit_data

PATH = pathlib.Path(__file__).with_name("prices.json")


def balanced(text):
    """The length of the group that text starts with."""
    depth, i = 0, 0
    while i < len(text):
        if text[i] == "\\":
            i += 1
        elif text[i] == "[":
            i = text.index("]", i + 2)
        elif text[i] == "(":
            depth += 1
        elif text[i] == ")":
            depth -= 1
            if depth == 0:
                return i + 1
        i += 1
    raise SystemExit(f"unbalanced: {text}")


def regex(pattern):
    """A clause for a Python pattern, in POSIX's extended syntax."""
    refused = []
    rest = pattern
    while rest.startswith("^(?!"):
        n = balanced(rest[1:])
        refused.append("^(" + rest[4:n] + ")")
        rest = "^" + rest[1 + n:]

    def posix(p):
        p = p.replace("(?:", "(").replace("\\d", "[0-9]")
        if re.search(r"\(\?|\\[A-Za-z0-9]|[*+?}][?+]", p):
            raise SystemExit(f"no POSIX for {pattern}")
        # Python and POSIX have to agree on what is plain
        re.compile(p)
        return p

    clauses = [{"not": {"regex": posix(p)}} for p in refused]
    if rest != "^":
        clauses.append({"regex": posix(rest)})
    return clauses[0] if len(clauses) == 1 else {"and": clauses}


def clause(c):
    if c is None:
        return None
    if isinstance(c, types.ClauseStartsWith):
        return {"starts": c.starts_with.lower()}
    if isinstance(c, types.ClauseEndsWith):
        return {"ends": c.ends_with.lower()}
    if isinstance(c, types.ClauseContains):
        return {"contains": c.contains.lower()}
    if isinstance(c, types.ClauseEquals):
        return {"is": c.equals.lower()}
    if isinstance(c, types.ClauseRegex):
        return regex(c.regex)
    if isinstance(c, types.ClauseOr):
        return {"or": [clause(x) for x in c.or_]}
    if isinstance(c, types.ClauseAnd):
        return {"and": [clause(x) for x in c.and_]}
    raise SystemExit(f"an unknown clause: {c!r}")


def decimal(d):
    # a few prices carry the noise of binary floats (0.18000000000000002)
    text = format(round(d, 12), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def price(p):
    if isinstance(p, types.TieredPrices):
        return [decimal(p.base)] + [[t.start, decimal(t.price)]
                                    for t in p.tiers]
    return decimal(p)


def time_of_day(t):
    if t.tzinfo is not None:
        t = datetime.datetime.combine(datetime.date(1970, 1, 1), t) \
            .astimezone(datetime.timezone.utc).timetz()
    return t.hour * 3600 + t.minute * 60 + t.second


def prices(model):
    listed = model.prices
    if isinstance(listed, types.ModelPrice):
        listed = [types.ConditionalPrice(prices=listed)]

    out = []
    for c in listed:
        entry = {}
        if isinstance(c.constraint, types.StartDateConstraint):
            entry["from"] = c.constraint.start_date.isoformat()
        elif isinstance(c.constraint, types.TimeOfDateConstraint):
            entry["hours"] = [time_of_day(c.constraint.start_time),
                              time_of_day(c.constraint.end_time)]
        elif c.constraint is not None:
            raise SystemExit(f"an unknown constraint: {c.constraint!r}")
        entry["usd"] = {k: price(v) for k, v in c.prices.__dict__.items()
                        if v is not None}
        out.append(entry)
    return out


def without_none(d):
    return {k: v for k, v in d.items() if v is not None}


def main():
    path = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else PATH

    head = {
        "source": "genai-prices " + importlib.metadata.version("genai-prices")
                  + ", https://pypi.org/project/genai-prices/",
        "licence": "MIT, Copyright (c) Pydantic Services Inc. 2025 to present",
        "date": datetime.date.today().isoformat(),
        "units": [{"usage": name, "price": u["price_key"], "per": u["per"],
                   "dimensions": u["dimensions"]}
                  for name, u in unit_data.items()],
    }

    # one model a line, so that a refresh can be read as a difference
    lines = []
    for p in providers:
        entry = without_none({
            "id": p.id,
            "provider_match": clause(p.provider_match),
            "model_match": clause(p.model_match),
            "fallback": p.fallback_model_providers or None,
        })
        models = ",\n".join("  " + json.dumps(
            {"id": m.id, "match": clause(m.match), "prices": prices(m)},
            separators=(",", ":")) for m in p.models)
        lines.append(json.dumps(entry)[:-1] + ', "models": [\n'
                     + models + "\n]}")

    text = (json.dumps(head, indent=1)[:-2] + ',\n "providers": [\n'
            + ",\n".join(lines) + "\n]}\n")
    json.loads(text)
    path.write_text(text)
    print(f"{path.name}: {head['source']}, {len(providers)} providers, "
          f"{sum(len(p.models) for p in providers)} models")


if __name__ == "__main__":
    main()
