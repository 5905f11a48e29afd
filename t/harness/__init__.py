"""What the tests stand on: a real nginx with the module, a real Redis, a
stand-in upstream, and clients that send exact bytes.  The fixtures are in
t/conftest.py; a test's nginx configuration is a template in its own file.

Where things are comes from the environment (`make check` sets it):

    NGINX_BIN      the nginx to run
    NGINX_MODULE   the module it loads ("" for one that has it built in)
    BUILD          where logs of failed tests and build products go
"""

import os
import pathlib
import shutil

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("BUILD") or ROOT / "build")
SHARED = ROOT.parent / "shared"

SEARCH = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"
NGINX_BIN = os.environ.get("NGINX_BIN") or shutil.which("nginx", path=SEARCH)
MODULE = os.environ.get("NGINX_MODULE",
                        str(BUILD / "ngx_http_lunary_module.so"))
SANITIZED = "-asan" in (NGINX_BIN or "") or "-tsan" in (NGINX_BIN or "")
VALGRIND = bool(os.environ.get("NGINX_VALGRIND"))

# everything that waits does so this long at most; slow machines and
# sanitizers stretch it
SLOW = float(os.environ.get("TEST_SLOW", 10 if VALGRIND else
                            6 if SANITIZED else 4))
