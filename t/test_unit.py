"""The unit tests of inspect/ and run/ (t/unit, cmocka): each program is one
case here, as it is and with sanitizers."""

import os
import pathlib
import re
import shutil
import subprocess

import pytest

from harness import BUILD, ROOT

UNIT = ROOT / "t" / "unit"
PROGRAMS = sorted(p.stem for p in UNIT.glob("test_*.c"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(shutil.which("make") is None, reason="no make"),
    pytest.mark.skipif(
        not any((pathlib.Path(d) / "cmocka.h").exists()
                for d in ("/usr/include", "/usr/local/include")),
        reason="no cmocka (libcmocka-dev)"),
]


# vector code: by nginx's own flags, which are those of a build by hand
VECTORS = ["test_simd", "test_span", "test_spool", "test_whole"]


def build(name, folder, *variables):
    """Under a lock: tests run side by side and share the objects."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / name
    made = subprocess.run(
        ["flock", str(folder / "lock"), "make", "-s", "-C", str(UNIT),
         f"BUILD={folder}", *variables, str(program)],
        capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    return program


def run(program):
    environment = dict(os.environ, UBSAN_OPTIONS="halt_on_error=1")
    ran = subprocess.run([str(program)], capture_output=True, text=True,
                         env=environment)
    output = ran.stdout + ran.stderr

    assert ran.returncode == 0, output[-4000:]
    assert re.search(r"\[  PASSED  \] [1-9]\d* test", output), output[-4000:]


@pytest.mark.parametrize("sanitized", [False, True],
                         ids=["plain", "sanitized"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_unit(name, sanitized):
    folder = pathlib.Path(BUILD) / ("unit-san" if sanitized else "unit")
    run(build(name, folder, *(["SAN=1"] if sanitized else [])))


@pytest.mark.parametrize("name", VECTORS)
def test_vector_code_is_right_and_leaves_registers_clean_by_nginx_flags(name):
    run(build(name, pathlib.Path(BUILD) / "unit-O", "CFLAGS=-O -g"))
