#!/usr/bin/env python3
"""Style of every file that git knows, and (--analyse TREE) static analysis.

    lint.py [--analyse TREE]

nginx's style is not a formatter's output, so it is checked and not imposed:
80 columns, no tabs, no trailing blanks, no // comments, the copyright head
and a word on what the file owns, function names at column 0, two blank lines
between functions, nobody's private paths.  TREE is an nginx that was
configured (`make` leaves one in build/): clang-tidy takes its flags from
there.  Exit status 1 where anything is wrong.
"""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]

HEAD = ("/*\n * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, "
        "see LICENSE.\n")

PREFIXES = ("ngx_http_lunary_", "ngx_lunary_", "lunary_")

problems = []


def problem(path, line, what):
    problems.append(f"{path}:{line}: {what}")


def tracked(*patterns):
    out = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard",
         "--", *patterns], cwd=ROOT, capture_output=True, text=True,
        check=True).stdout
    return [pathlib.Path(p) for p in out.splitlines()
            if (ROOT / p).is_file()]


def read(path):
    try:
        return (ROOT / path).read_text()
    except UnicodeDecodeError:
        return None


def every_file(path, text):
    name = path.name
    prose = path.suffix in (".md", ".json", ".jsonl", ".svg", ".yml")
    for n, line in enumerate(text.split("\n"), 1):
        if line != line.rstrip() and path.suffix != ".md":
            problem(path, n, "blanks at the end of the line")
        if "\t" in line and name != "Makefile":
            problem(path, n, "a tab")
        if len(line) > 80 and path.suffix in (".c", ".h"):
            problem(path, n, f"{len(line)} columns")
        elif len(line) > 100 and not prose and path.suffix != ".mk" and \
                name != "Makefile" and "http" not in line:
            problem(path, n, f"{len(line)} columns")
        if re.search(r"(^|[\s\"'(=])/(work|root|home)/\w", line):
            problem(path, n, "a path of somebody's machine")
    if text and not text.endswith("\n"):
        problem(path, text.count("\n") + 1, "no newline at the end")
    if text.endswith("\n\n"):
        problem(path, text.count("\n"), "an empty line at the end")


def c_file(path, text):
    if not text.startswith(HEAD):
        problem(path, 1, "not the copyright head")
    else:
        comment = text[:text.index("*/")]
        if comment.count("\n") < 4:
            problem(path, 1, "the head does not say what the file owns")

    lines = text.split("\n")
    # comments and strings out of the way, line numbers kept
    bare = re.sub(r"/\*.*?\*/", lambda m: re.sub(r"[^\n]", " ", m.group()),
                  text, flags=re.S)
    bare = re.sub(r'"(\\.|[^"\\\n])*"', '""', bare).split("\n")

    for n, line in enumerate(bare, 1):
        if "//" in line:
            problem(path, n, "a // comment")
        if re.match(r"\w[\w \*]*\)\s*\{$", line):
            problem(path, n, "the brace of a function belongs on its own line")
        if re.search(r"\b(if|for|while|switch)\(", line):
            problem(path, n, "no space after a keyword")
        if re.search(r"\)\{|\belse\{", line):
            problem(path, n, "no space before a brace")

    # a body's closing brace, then two empty lines (or the end, or a macro)
    for n, line in enumerate(lines, 1):
        if line == "}" and path.suffix == ".c" and n < len(lines) - 1:
            rest = lines[n:n + 3]
            if rest[:1] == [""] and len(rest) > 1 and rest[1] != "":
                if not rest[1].startswith("#"):
                    problem(path, n + 1, "one empty line between functions")

    if path.suffix == ".c" and "ngx_lunary_module" in path.parts:
        for n, line in enumerate(bare, 1):
            m = re.match(r"(\w+)\(.*", line)
            if not m or n < 2 or line.rstrip().endswith(";"):
                continue
            if "static" in bare[n - 2] or not bare[n - 2].strip():
                continue
            if bare[n - 2].startswith(("#", " ")):
                continue
            if not m.group(1).startswith(PREFIXES):
                problem(path, n, f"{m.group(1)} lacks the prefix")

    if path.suffix == ".h" and not re.search(
            r"#ifndef \w+_H\n#define \w+_H\n", text):
        problem(path, 1, "no include guard")


def shape(path, text):
    n = text.count("\n")
    if path.suffix in (".c", ".h") and n > 800:
        print(f"note: {path}: {n} lines: perhaps two rooms")


def nginx_flags(tree):
    makefile = (tree / "objs" / "Makefile").read_text()
    cflags = re.search(r"^CFLAGS = (.*)$", makefile, re.M).group(1).split()
    incs = re.search(r"^ALL_INCS = ((?:.*\\\n)*.*)$", makefile,
                     re.M).group(1).replace("\\", "").split()
    flags, it = [], iter(incs)
    for flag in it:
        if flag == "-I":
            flags += ["-I", str((tree / next(it)).resolve())]
    return [f for f in cflags if f.startswith("-D")] + flags


def analyse(tree):
    sources = [str(p) for p in tracked("ngx_lunary_module/**/*.c",
                                       "ngx_lunary_module/*.c")]
    flags = nginx_flags(tree)

    print(f"cppcheck: {len(sources)} files", flush=True)
    done = subprocess.run(
        ["cppcheck", "--quiet", "--error-exitcode=1", "-j2",
         "--enable=warning,portability,performance", "--inline-suppr",
         "--std=c11", "--suppress=missingIncludeSystem",
         "--suppress=nullPointerArithmetic", "--suppress=*:*/nginx-*/*",
         "--suppress=uninitMemberVar", "--template={file}:{line}: {id}: "
         "{message}", "-DNGX_PTR_SIZE=8", "-Ingx_lunary_module",
         *sources], cwd=ROOT)
    failed = done.returncode != 0

    print(f"clang-tidy: {len(sources)} files", flush=True)
    checks = ("-*,clang-analyzer-*,bugprone-*,"
              "-clang-analyzer-security.insecureAPI."
              "DeprecatedOrUnsafeBufferHandling,"
              "-bugprone-easily-swappable-parameters,"
              "-bugprone-reserved-identifier,"
              "-bugprone-narrowing-conversions,"
              "-bugprone-assignment-in-if-condition,"
              "-bugprone-macro-parentheses,"
              "-bugprone-implicit-widening-of-multiplication-result,"
              "-bugprone-branch-clone,-bugprone-suspicious-include,"
              "-bugprone-not-null-terminated-result,"
              "-bugprone-sizeof-expression")
    for i in range(0, len(sources), 8):
        done = subprocess.run(
            ["clang-tidy", "--quiet", f"--checks={checks}",
             "--warnings-as-errors=*", *sources[i:i + 8], "--",
             "-std=gnu11", *flags], cwd=ROOT, stderr=subprocess.DEVNULL)
        failed = failed or done.returncode != 0
    return failed


def main():
    for path in tracked():
        text = read(path)
        if text is None or "corpus" in path.parts:
            continue
        every_file(path, text)
        if path.suffix in (".c", ".h"):
            c_file(path, text)
            shape(path, text)

    for line in problems:
        print(line)
    print(f"style: {len(problems)} problems", flush=True)

    failed = bool(problems)
    if len(sys.argv) > 2 and sys.argv[1] == "--analyse":
        failed = analyse(pathlib.Path(sys.argv[2])) or failed
    return failed


if __name__ == "__main__":
    sys.exit(main())
