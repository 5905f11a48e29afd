"""The fuzz targets (t/fuzz, libFuzzer with ASan and UBSan): each runs over its
seeds and a few seconds on from there.  `make fuzz` runs them for longer."""

import pathlib
import re
import shutil
import subprocess

import pytest

from harness import BUILD, ROOT

FUZZ = ROOT / "t" / "fuzz"
TARGETS = sorted(p.stem.removeprefix("fuzz_") for p in FUZZ.glob("fuzz_*.c"))
SECONDS = 5


def has_libfuzzer():
    if not shutil.which("clang"):
        return False
    probe = subprocess.run(
        ["clang", "-fsanitize=fuzzer,address", "-x", "c", "-", "-o",
         "/dev/null"],
        input="int LLVMFuzzerTestOneInput(const char *p, long n);"
              "int LLVMFuzzerTestOneInput(const char *p, long n)"
              "{ (void) p; (void) n; return 0; }",
        capture_output=True, text=True)
    return probe.returncode == 0


pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not has_libfuzzer(),
                       reason="no clang with libFuzzer (clang)"),
]


@pytest.mark.parametrize("target", TARGETS)
def test_fuzz(target, tmp_path):
    folder = pathlib.Path(BUILD) / "fuzz"
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / f"fuzz_{target}"

    made = subprocess.run(
        ["flock", str(folder / "lock"), "make", "-s", "-C", str(FUZZ),
         f"BUILD={folder}", str(program)], capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr

    found = tmp_path / "found"
    found.mkdir()
    ran = subprocess.run(
        [str(program), f"-max_total_time={SECONDS}", "-max_len=16384",
         "-timeout=10", "-rss_limit_mb=1024", "-print_final_stats=1",
         f"-artifact_prefix={tmp_path}/crash-", str(found),
         str(FUZZ / "corpus" / target)], capture_output=True, text=True)

    assert ran.returncode == 0, ran.stderr[-4000:]

    # it did run, and over more than nothing
    executed = re.search(r"number_of_executed_units:\s*(\d+)", ran.stderr)
    assert int(executed[1]) > len(list((FUZZ / "corpus" / target).iterdir()))
