"""Fixtures.  A test file shows its nginx configuration as a template above
its tests:

    CONFIG = '''
    {{ globals }}
    http {
        {{ http }}
        {{ lunary }}
        server {
            listen {{ listen }};
            location / { lunary on; proxy_pass {{ upstream }}; }
        }
    }
    '''

    def test_a_call_becomes_a_run(nginx, runs):
        nginx = nginx(CONFIG)
        assert nginx.post(json={"model": "m", "messages": []}).status == 200
        assert runs.one()["outcome"] == "ok"

After each test every nginx is stopped, and its error.log must hold no [alert]
or [emerg], no sanitizer may have spoken, and no process may be left over.
"""

import os
import pathlib
import shutil
import sys
import tempfile

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from harness import BUILD, MODULE, NGINX_BIN, ROOT, SHARED   # noqa: E402
from harness.nginx import Nginx                              # noqa: E402
from harness.redis import RedisServer                        # noqa: E402
from harness.runs import Runs                                # noqa: E402
from harness.upstream import Upstream                        # noqa: E402


def pytest_report_header(config):
    return [f"nginx: {NGINX_BIN}", f"module: {MODULE or 'built in'}"]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.when == "call":
        item.failed = report.failed


@pytest.fixture(scope="session")
def scratch():
    """A folder of this process: short, for the length of unix sockets."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="lunary-t-"))
    os.chmod(folder, 0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def folder(scratch, request):
    """A folder of this test; kept under build/failed where it fails."""
    folder = pathlib.Path(tempfile.mkdtemp(dir=scratch))
    os.chmod(folder, 0o755)
    yield folder
    if getattr(request.node, "failed", False):
        name = "".join(c if c.isalnum() else "-" for c in request.node.name)
        kept = BUILD / "failed" / f"{request.node.path.stem}.{name[:80]}"
        shutil.rmtree(kept, ignore_errors=True)
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(folder, kept, ignore=shutil.ignore_patterns(
            "*.sock", "spool"), ignore_dangling_symlinks=True)
        print(f"logs kept in {kept}")
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def _redis(scratch):
    server = RedisServer(scratch / "redis").start()
    yield server
    server.stop()


@pytest.fixture
def redis(_redis):
    """A redis-server, empty.  redis.client speaks to it (and so does redis
    itself: redis.hset(...)); it is shared: redis_server makes one that may
    be killed."""
    _redis.client.flushall()
    yield _redis
    # what a test changed with CONFIG SET stays its own affair


@pytest.fixture
def redis_server(folder):
    """redis_server(**directives) starts one for this test alone."""
    servers = []

    def make(**config):
        server = RedisServer(folder / f"redis{len(servers)}", **config)
        servers.append(server)
        return server.start()

    yield make
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def _upstream():
    upstream = Upstream()
    yield upstream
    upstream.stop()


@pytest.fixture
def upstream(_upstream):
    """The stand-in LLM service; see harness/upstream.py."""
    _upstream.clear()
    return _upstream


@pytest.fixture
def another_upstream():
    """another_upstream() starts one more, for failover and the like."""
    made = []

    def make(**kw):
        made.append(Upstream(**kw))
        return made[-1]

    yield make
    for one in made:
        one.stop()


@pytest.fixture
def runs(redis):
    return Runs(redis)


@pytest.fixture
def nginx(request, folder, redis, upstream, runs):
    """nginx(CONFIG, workers=1, **variables) starts one."""
    made = []
    problems = []

    def make(config, start=True, **variables):
        variables.setdefault("redis", redis.unix_url)
        variables.setdefault("upstream", upstream.url)
        one = Nginx(folder / f"nginx{len(made)}", config, **variables)
        made.append(one)
        return one.start() if start else one

    yield make

    for one in made:
        problems += one.finish()
    try:
        runs.settled()
    except AssertionError as e:
        problems.append(str(e))
    if problems:
        request.node.failed = True
        pytest.fail("\n".join(problems), pytrace=False)


@pytest.fixture
def conf_test(folder, redis, upstream):
    """conf_test(CONFIG, **variables): what `nginx -t` says: (accepted,
    words)."""
    made = []

    def test(config, **variables):
        variables.setdefault("redis", redis.unix_url)
        variables.setdefault("upstream", upstream.url)
        one = Nginx(folder / f"conf{len(made)}", config, **variables)
        made.append(one)
        return one.test_config()

    return test


@pytest.fixture(scope="session")
def node_modules():
    """Where `make node` put the packages of t/package.json."""
    path = BUILD / "node" / "node_modules"
    if not path.exists():
        pytest.skip("no node packages: make node")
    return path


@pytest.fixture(scope="session")
def shared():
    """The folder of recorded traffic beside the project."""
    if not (SHARED / "corpus").is_dir():
        pytest.skip(f"no recorded traffic in {SHARED.relative_to(ROOT.parent)}"
                    " beside the project")
    return SHARED
