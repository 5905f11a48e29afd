"""A real nginx with the module, in a scratch folder, as one object."""

import os
import pathlib
import re
import signal
import subprocess
import time

import jinja2

from . import MODULE, NGINX_BIN, ROOT, SANITIZED, SLOW, VALGRIND
from .client import Client
from .wait import free_port, processes, wait_for

GLOBALS = """\
daemon off;
{% if root %}user root;
{% endif -%}
{% if module %}load_module {{ module }};
{% endif -%}
worker_processes {{ workers }};
worker_shutdown_timeout {{ shutdown }};
pid {{ dir }}/nginx.pid;
error_log {{ dir }}/error.log {{ level }};
{% if sanitized %}env ASAN_OPTIONS;
env UBSAN_OPTIONS;
env LSAN_OPTIONS;
env TSAN_OPTIONS;
{% endif -%}
events {
    worker_connections 1024;
}
"""

HTTP = """\
    access_log {{ dir }}/access.log;
    client_body_temp_path {{ dir }}/body;
    proxy_temp_path {{ dir }}/proxy;
    fastcgi_temp_path {{ dir }}/fastcgi;
    uwsgi_temp_path {{ dir }}/uwsgi;
    scgi_temp_path {{ dir }}/scgi;
    proxy_http_version 1.1;
"""

LUNARY = """\
    lunary_redis {{ redis }}{{ lookups }};
    lunary_spool {{ dir }}/spool size=4m;
"""

# asan=AT_ONCE: what was freed is given back, and not kept for a while
AT_ONCE = ":quarantine_size_mb=0:thread_local_quarantine_size_kb=0"

TROUBLE = re.compile(
    r"\[(alert|emerg)\]|AddressSanitizer|LeakSanitizer|runtime error:"
    r"|Assertion .* failed|exited on signal")


def nginx_version():
    """Of NGINX_BIN, as numbers: (1, 22, 1)."""
    says = subprocess.run([NGINX_BIN, "-v"], capture_output=True, text=True)
    return tuple(map(int, re.search(r"/(\d+)\.(\d+)\.(\d+)",
                                    says.stderr).groups()))


class ConfigError(AssertionError):
    """nginx refused the configuration; its words are the text."""


class Nginx:
    """Templates may use `globals`, `http`, `lunary` (the lines above),
    `dir`, `redis`, `upstream` (http://host:port), `listen`, and whatever
    keyword arguments the test gave; further ports as `port2`, `port3`."""

    def __init__(self, folder, config, **variables):
        self.folder = pathlib.Path(folder)
        self.config = config
        self.variables = variables
        self.process = None
        self.allowed = []
        self.refused = False
        self._ports = {}

    # -- configuration

    def render(self, config=None, **more):
        values = {"dir": str(self.folder), "module": MODULE, "workers": 1,
                  "level": os.environ.get("NGINX_LOG_LEVEL", "debug"),
                  "root": os.getuid() == 0, "shutdown": "3s",
                  "sanitized": SANITIZED, "project": str(ROOT),
                  **self.variables, **more}
        env = jinja2.Environment(undefined=jinja2.StrictUndefined)

        text = config or self.config
        for name in ("port", "port2", "port3"):
            if name not in values:
                if name not in self._ports:
                    self._ports[name] = free_port()
                values[name] = self._ports[name]
        self.port = values["port"]
        self.port2 = values["port2"]
        self.port3 = values["port3"]
        values.setdefault("listen", f"127.0.0.1:{self.port}")

        # a look-up that a busy machine keeps waiting is no verdict
        values["lookups"] = (f" timeout={int(250 * SLOW)}ms"
                             if " " not in values.get("redis", " ") else "")

        if "redis" not in values and "{{ lunary }}" in text:
            raise AssertionError("the test needs the `redis` fixture")
        for name, part in (("globals", GLOBALS), ("http", HTTP),
                           ("lunary", LUNARY)):
            if "{{ " + name + " }}" in text:
                values[name] = env.from_string(part).render(values)
        return env.from_string(text).render(values)

    def write(self, config=None, **more):
        self.folder.mkdir(parents=True, exist_ok=True)
        os.chmod(self.folder, 0o755)
        (self.folder / "nginx.conf").write_text(self.render(config, **more))

    def command(self, *args):
        command = [NGINX_BIN, "-p", str(self.folder), "-c",
                   str(self.folder / "nginx.conf"),
                   "-e", str(self.folder / "error.log"), *args]
        if VALGRIND and "-t" not in args:
            command = [
                "valgrind", "--quiet", "--trace-children=yes",
                "--child-silent-after-fork=no", "--leak-check=full",
                "--show-leak-kinds=definite", "--num-callers=20",
                f"--suppressions={ROOT}/t/harness/valgrind.supp",
                f"--log-file={self.folder}/valgrind.%p", *command]
        return command

    def environment(self, leaks=1):
        env = dict(os.environ)
        env.update(
            ASAN_OPTIONS=f"log_path={self.folder}/asan:detect_leaks={leaks}:"
                         "detect_odr_violation=0:abort_on_error=0:"
                         "allocator_may_return_null=1"
                         f"{self.variables.get('asan', '')}",
            UBSAN_OPTIONS=f"log_path={self.folder}/asan:print_stacktrace=1",
            TSAN_OPTIONS=f"log_path={self.folder}/tsan:die_after_fork=0:"
                         f"suppressions={ROOT}/t/harness/tsan.supp",
            LSAN_OPTIONS=f"suppressions={ROOT}/t/harness/lsan.supp:"
                         "print_suppressions=0")
        return env

    def run(self, *args):
        """nginx -t, -s and the like.  It returns from main() with all its
        pools: a leak to the sanitizer, or not, as the last pointer to them
        happens to be in a register (the same without the module)."""
        return subprocess.run(self.command(*args), capture_output=True,
                              text=True, env=self.environment(leaks=0),
                              timeout=240)

    def test_config(self):
        """nginx -t: (accepted, its words)."""
        self.write()
        done = self.run("-t")
        return done.returncode == 0, done.stderr

    # -- running

    def start(self):
        for _ in range(5):
            self.write()
            with open(self.folder / "stderr.log", "ab") as err:
                self.process = subprocess.Popen(
                    self.command(), stdin=subprocess.DEVNULL, stdout=err,
                    stderr=err, env=self.environment(),
                    start_new_session=True)

            def up():
                return self.process.poll() is not None or self._workers_up()

            wait_for(up, 10, "nginx")
            if self.process.poll() is None:
                return self
            words = self.stderr() + self.log()
            if "Address already in use" not in words:
                self.allow("emerg")         # the exception says it
                self.refused = True
                raise ConfigError(words[-4000:])
            # another test was quicker with the port
            (self.folder / "error.log").unlink(missing_ok=True)
            self._ports = {}
        raise ConfigError("no free port")

    def _workers_up(self):
        pid = self.folder / "nginx.pid"
        if not pid.exists() or not pid.read_text().strip():
            return False
        want = self.variables.get("workers", 1)
        return want == "auto" or len(self.workers()) >= int(want)

    def workers(self):
        """Pids of the worker processes that serve."""
        if VALGRIND:            # keeps the command line it was started with
            return self.children()
        return [p for p in self.children()
                if b"worker process" in self._cmdline(p)
                and b"shutting down" not in self._cmdline(p)]

    def children(self):
        pid = self.process.pid
        try:
            with open(f"/proc/{pid}/task/{pid}/children") as f:
                return [int(p) for p in f.read().split()]
        except OSError:
            return []

    @staticmethod
    def _cmdline(pid):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                return f.read()
        except OSError:
            return b""

    def signal(self, number):
        self.process.send_signal(number)

    def reload(self, config=None, **more):
        """Writes the configuration anew, reloads, and waits until the new
        workers serve; old ones may still be finishing."""
        if config:
            self.config = config
        self.variables.update(more)
        self.write()
        old = set(self.workers())
        self.signal(signal.SIGHUP)
        want = self.variables.get("workers", 1)
        wait_for(lambda: len(set(self.workers()) - old) >= want, 10,
                 "new workers")

    def quit(self, timeout=10):
        """Graceful: requests end, the outbox drains."""
        return self._stop(signal.SIGQUIT, timeout)

    def stop(self, timeout=10):
        """Fast."""
        return self._stop(signal.SIGTERM, timeout)

    def kill(self):
        """kill -9 of master and workers."""
        for pid in processes(session=self.process.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()

    def _stop(self, number, timeout):
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            self.process.wait(timeout * SLOW)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"nginx did not stop in {timeout} s")
        return self.process.returncode

    # -- what it said

    def log(self, name="error.log"):
        path = self.folder / name
        return path.read_text(errors="replace") if path.exists() else ""

    def stderr(self):
        return self.log("stderr.log")

    def access_log(self):
        return self.log("access.log").splitlines()

    def wait_log(self, pattern, timeout=5):
        """Until error.log has the regular expression; the match."""
        return wait_for(lambda: re.search(pattern, self.log()), timeout,
                        f"{pattern!r} in error.log")

    def allow(self, pattern):
        """A line of [alert] or [emerg] that this test is about."""
        self.allowed.append(re.compile(pattern))

    # -- after the test

    def finish(self):
        """Stops it if it runs, and finds everything that went wrong."""
        problems = []
        if self.process is not None:
            session = self.process.pid
            try:
                if self.process.poll() is None:
                    self.quit()
            except AssertionError as e:
                problems.append(str(e))

            end = time.monotonic() + 2 * SLOW
            while processes(session=session) and time.monotonic() < end:
                time.sleep(0.01)
            left = processes(session=session)
            if left:
                problems.append(f"processes left over: {left}")
                self.kill()

        for path in self.folder.glob("*"):
            name = path.name
            if name.startswith(("asan.", "tsan.", "valgrind.")):
                text = path.read_text(errors="replace").strip()
                # nginx leaves by exit() where it refuses a configuration
                if text and not (self.refused and "LeakSan" in text):
                    problems.append(f"{name}:\n{text[:6000]}")
            elif name in ("error.log", "stderr.log"):
                with path.open(errors="replace") as f:
                    for line in f:
                        if TROUBLE.search(line) and not any(
                                a.search(line) for a in self.allowed):
                            problems.append(line.strip()[:600])
        return problems

    # -- a client for it

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def client(self, port=None):
        return Client("127.0.0.1", port or self.port)

    def request(self, method, path, **kw):
        with self.client() as c:
            return c.request(method, path, **kw)

    def get(self, path, **kw):
        return self.request("GET", path, **kw)

    def post(self, path="/v1/chat/completions", **kw):
        return self.request("POST", path, **kw)
