# Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
"""That the documentation says what the source does: names, links, and every
piece of configuration in it."""

import pathlib
import re
import subprocess

import certifi
import pytest

from harness import ROOT
from harness.wait import wait_for
from harness.worker import once, run, uuid7
from ingest_standin.server import Ingest

DOCS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.conf"))
SOURCE = ROOT / "ngx_lunary_module"


def read(path):
    return (ROOT / path).read_text()


def directives_of_the_source():
    text = "".join(p.read_text() for p in sorted(SOURCE.glob("http/*.c")))
    return set(re.findall(r'{ ngx_string\("(lunary\w*)"\),\s+NGX_HTTP_', text))


def documented(pattern, path="docs/directives.md"):
    return set(re.findall(pattern, read(path), re.M))


# -- names

def test_every_directive_is_documented_and_no_other():
    assert directives_of_the_source() == documented(r"^### (lunary\w*)$")


def test_the_list_of_directives_is_whole():
    listed = documented(r"^\[(lunary\w*)\]\(#\1\)")
    assert listed == directives_of_the_source()


def test_every_directive_says_syntax_default_context_and_version():
    text = read("docs/directives.md")
    for name in directives_of_the_source():
        section = re.search(rf"^### {name}$(.*?)(?=^##)", text,
                            re.M | re.S).group(1)
        for word in ("| Syntax | `" + name, "| Default | ", "| Context | `",
                     "This directive appeared in version 0.1.0."):
            assert word in section, (name, word)


def test_every_variable_is_documented_and_no_other():
    source = set(re.findall(
        r'ngx_http_lunary_var\("(lunary_\w+)"',
        (SOURCE / "http/ngx_http_lunary_variables.c").read_text()))
    table = read("docs/directives.md").split("## Variables")[1]
    table = table.split("```")[0]
    assert source == {v for line in table.splitlines()
                      if line.startswith("| `$")
                      for v in re.findall(r"`\$(lunary_\w+)`",
                                          line.split("|")[1])}


def test_every_counter_is_documented_and_no_other():
    header = (SOURCE / "stats/ngx_lunary_stats.h").read_text()
    source = (SOURCE / "stats/ngx_lunary_stats_page.c").read_text()
    names = set(re.findall(r'X\([A-Z_]+,\s+"([a-z_]+)",\s+(?:"|SUM|MAX)',
                           header))
    names |= set(re.findall(r'^    "(\w+_seconds)"', source, re.M))
    names.add("usage_missing_total")

    table = read("docs/directives.md").split("## Counters")[1]
    shown = set()
    for line in table.splitlines():
        if line.startswith("| `lunary_"):
            shown |= set(re.findall(r"`lunary_(\w+?)(?:{\w+})?`",
                                    line.split("|")[1]))
    assert shown == names


def test_every_reason_of_a_dropped_run_is_documented():
    header = (SOURCE / "stats/ngx_lunary_stats.h").read_text()
    reasons = re.findall(r'"runs_dropped_total",\s+"reason",\s+"(\w+)"',
                         header)
    line = next(line for line in read("docs/directives.md").splitlines()
                if line.startswith("| `lunary_runs_dropped_total"))
    assert [r for r in reasons if f"`{r}`" not in line] == []


def test_every_field_of_a_run_is_documented_and_no_other():
    header = (SOURCE / "run/lunary_run.h").read_text()
    source = re.findall(r'X\([A-Z_0-9]+,\s+"([a-z_0-9]+)",\s+[A-Z]+\)', header)
    shown = []
    for line in read("docs/runs.md").split("## Contents")[0].splitlines():
        cells = line.split("|")
        if len(cells) == 4 and cells[1].strip().startswith("`"):
            shown += re.findall(r"`([a-z_0-9]+)`", cells[1])
    source = [f for f in source if f not in ("event", "event_name")]
    outcomes = ["ok", "error", "rejected", "aborted", "truncated", "timeout"]
    # two of the outcomes are also names of fields
    assert sorted(shown) == sorted(source + outcomes)


def test_every_refusal_is_documented_with_its_status():
    source = (SOURCE / "http/ngx_http_lunary_refusal.c").read_text()
    codes = set(re.findall(r'ngx_string\("(\w+_\w+)"\)', source))
    table = read("docs/directives.md").split("## Refusals")[1]
    shown = set(re.findall(r"^\| `(\w+)` \|", table.split("## ")[0], re.M))
    assert shown and shown <= codes


def test_the_commands_of_the_readme_exist():
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.M))
    commands = set(re.findall(r"^make ([a-z-]+)", read("README.md"), re.M))
    assert commands and commands <= targets


def test_the_manual_has_every_option_of_the_worker_and_no_other():
    source = set(re.findall(r'^    { "([a-z-]+)", LW_OPT_',
                            read("redis/worker/options_table.c"), re.M))
    manual = read("redis/man/lunary-worker.1").split(".SH OPTIONS")[1]
    manual = re.findall(r"^\.BI? \\-\\-([a-z\\-]+)",
                        manual.split(".SH ")[0], re.M)
    manual = [name.replace("\\", "") for name in manual]

    assert len(source) > 40
    assert sorted(source) == sorted(manual)


def test_the_manual_has_every_command_of_the_worker():
    source = set(re.findall(r'^    { "([a-z]+)", LW_[A-Z]+, "',
                            read("redis/worker/options_table.c"), re.M))
    manual = read("redis/man/lunary-worker.1").split(".SH OPTIONS")[0]

    assert len(source) == 8
    for name in source:
        assert re.search(rf'^\.BI? "?{name}\b', manual, re.M), name


def test_the_tests_that_the_documentation_names_exist():
    tests = "".join(p.read_text() for p in (ROOT / "t").glob("test_*.py"))
    docs = "".join(p.read_text() for p in DOCS)
    named = set(re.findall(r"`(test_\w+)`", docs))
    assert named and {n for n in named if f"def {n}(" not in tests} == set()
    files = set(re.findall(r"`(t/[\w/.]+)`", docs))
    assert files and {f for f in files if not (ROOT / f).exists()} == set()


# -- links

def anchors(path):
    made = set()
    for title in re.findall(r"^#+ (.+)$", path.read_text(), re.M):
        title = re.sub(r"[^\w\- ]", "", title.lower())
        made.add(title.replace(" ", "-"))
    return made


def check_links(path):
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), (path.name, target)
        if anchor:
            assert anchor in anchors(there), (path.name, target)


@pytest.mark.parametrize("path", DOCS, ids=lambda p: p.name)
def test_links_lead_somewhere(path):
    check_links(path)


def test_links_lead_somewhere_where_it_is_installed(folder):
    for name in ("ngx_http_lunary_module.so", "lunary-worker"):
        (folder / name).write_text("")
    made = subprocess.run(
        ["make", "-C", str(ROOT), "-o", "module", "-o", "worker", "install",
         f"BUILD={folder}", f"DESTDIR={folder}/to", "prefix=/opt/lunary"],
        capture_output=True, text=True)
    assert made.returncode == 0, made.stderr

    there = folder / "to/opt/lunary/share/doc/ngx-lunary-module"
    installed = sorted(there.glob("**/*.md"))
    assert len(installed) > len(DOCS)
    for path in installed:
        check_links(path)
    unit = folder / "to/usr/lib/systemd/system/lunary-relay.service"
    assert "\nExecStart=/opt/lunary/bin/lunary-worker " in unit.read_text()


# -- configuration

FILES = """
{{ globals }}
http {
    {{ http }}
    lunary_spool {{ dir }}/spool;
%s
}
"""

# where a snippet may stand: as it is, in http, server, or location
PLACES = {
    "http": FILES,
    "server": FILES % "server { listen {{ listen }};\n%s\n}",
    "location": FILES % ("server { listen {{ listen }}; location / {\n%s\n"
                         "proxy_pass http://127.0.0.1:1; } }"),
}


def local(text, folder):
    """The same configuration with what a test cannot have taken out: files
    of /etc, names to look up, the module (it is loaded already)."""
    folder = pathlib.Path(folder)
    for name in "session.secret", "htpasswd", "lunary.keys", "user.hmac", "redis.password":
        (folder / name).write_text("secret\n")
    # the harness has both
    text = re.sub(r"^(load_module .*|events \{\})$", "", text, flags=re.M)
    text = text.replace("/etc/nginx/", f"{folder}/")
    text = text.replace("/var/cache/nginx/", f"{folder}/")
    text = text.replace("/etc/ssl/certs/ca-certificates.crt",
                        certifi.where())
    text = text.replace("https://api.openai.com", "https://127.0.0.1:1")
    text = text.replace("http://llm", "http://127.0.0.1:1")
    return text


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.name)
def test_example_configurations_are_accepted(path, conf_test, folder):
    accepted, words = conf_test(FILES % local(path.read_text(), folder))

    assert accepted, words
    assert "[warn]" not in words


def snippets():
    for path in DOCS:
        blocks = re.findall(r"^```nginx\n(.*?)^```", path.read_text(),
                            re.M | re.S)
        for n, block in enumerate(blocks):
            yield pytest.param(block, id=f"{path.stem}-{n}")


@pytest.mark.parametrize("text", list(snippets()))
def test_configuration_in_the_documentation_is_accepted(text, conf_test,
                                                        folder):
    text = local(text, folder)
    said = []

    if re.search(r"^http {", text, re.M):
        text = text.replace("http {", "http { {{ http }} "
                            "lunary_spool {{ dir }}/spool;", 1)
        text = re.sub(r"listen \d+;", "listen {{ listen }};", text)
        places = {"main": "{{ globals }}\n%s"}
    else:
        text = re.sub(r"listen \d+;", "listen {{ listen }};", text)
        places = PLACES

    for name, place in places.items():
        accepted, words = conf_test(place % text)
        if accepted:
            return
        said.append(f"{name}: {words}")

    pytest.fail("\n".join(said), pytrace=False)


# -- the examples at work

def at_work(path, folder, upstream, redis):
    """An example, with its upstream and Redis replaced by the test's."""
    text = local(path.read_text(), folder)
    text = re.sub(r"redis://127\.0\.0\.1:6379", redis.url.rpartition("/")[0],
                  text)
    text = re.sub(r"https://\$(openai|anthropic)", upstream.url, text)
    text = re.sub(r"server +127\.0\.0\.1:800\d",
                  "server " + upstream.url.removeprefix("http://"), text)
    text = re.sub(r"listen +127\.0\.0\.1:\d+", "listen {{ listen }}", text)
    return FILES % text


def test_the_openai_example_logs_a_user_and_refuses_nobody(
        nginx, folder, upstream, redis, runs):
    nginx = nginx(at_work(EXAMPLES[1], folder, upstream, redis))
    call = {"model": "gpt-4o", "messages": [{"role": "user", "content": "a"}]}

    assert nginx.post(json={**call, "user": "ann"}).status == 200
    assert nginx.post(json=call).status == 400
    assert nginx.get("/v1/models").status == 200

    ok, refused, *_ = runs(2)
    assert (ok["user_id"], ok["app"]) == ("ann", "openai.internal")
    assert refused["outcome"] == "rejected"


def test_the_anthropic_example_believes_its_application_servers(
        nginx, folder, upstream, redis, runs):
    nginx = nginx(at_work(EXAMPLES[0], folder, upstream, redis))
    call = {"model": "claude-sonnet-4-5", "max_tokens": 16,
            "messages": [{"role": "user", "content": "a"}]}

    assert nginx.post("/v1/messages", json=call, headers={
        "X-Lunary-User-Id": "ann"}).status == 200
    assert nginx.post("/v1/messages", json=call).status == 401

    ok = runs(2)[0]
    assert (ok["user_id"], ok["user_verified"], ok["api"]) == (
        "ann", "1", "anthropic.messages")


def test_the_vllm_example_knows_users_by_their_session(
        nginx, folder, upstream, redis, runs):
    nginx = nginx(at_work(EXAMPLES[2], folder, upstream, redis))
    call = {"model": "llama", "messages": [{"role": "user", "content": "a"}]}
    redis.client.execute_command("SELECT", 1)
    try:
        redis.client.set("sess:abc", '{"user":{"id":"ann","name":"Ann"}}')
    finally:
        redis.client.execute_command("SELECT", 0)

    assert nginx.post(json=call, headers={"Cookie": "sid=abc"}).status == 200
    assert nginx.post(json=call).status == 401

    ok = runs(2)[0]
    assert (ok["user_id"], ok["user_verified"], ok["provider"]) == (
        "ann", "1", "vllm")
    assert ok.json("user_props")["name"] == "Ann"


ACL = """
{{ globals }}
http {
    {{ http }}
    lunary_redis {{ redis }};
    lunary_spool {{ dir }}/spool;
    server {
        listen {{ listen }};
        location / {
            lunary              on;
            lunary_user         session parent;
            lunary_session      sess:$cookie_sid;
            lunary_require_user on;
            proxy_pass          {{ upstream }};
        }
    }
}
"""


def test_the_documented_acl_suffices_for_all_that_nginx_does(
        nginx, redis_server):
    server = redis_server()
    text = read("docs/redis.md")
    command = re.search(r"^(ACL SETUSER nginx .+)$", text, re.M).group(1)
    server.client.execute_command(*command.split())
    server.client.hset("sess:abc", mapping={"user_id": "ann"})
    server.client.hset("lunary:policy:default:ann", mapping={
        "budget_tokens": 100000, "budget_usd": 5, "budget_period": "day"})
    call = {"model": "gpt-4o", "messages": [{"role": "user", "content": "a"}]}

    nginx = nginx(ACL, redis=server.url.replace(
        "redis://", "redis://nginx:secret@"))
    assert nginx.post(json={**call, "thread_id": "t1"}, headers={
        "Cookie": "sid=abc"}).status == 200
    # no session: the thread's owner
    assert nginx.post(json={**call, "thread_id": "t1"}).status == 200
    wait_for(lambda: server.client.xlen("lunary:runs") == 2)
    wait_for(lambda: [k for k in server.client.keys("lunary:budget:*")
                      if not k.endswith(":held")
                      and server.client.hget(k, "spent")])
    nginx.quit()

    runs = [f for _, f in server.client.xrange("lunary:runs")]
    assert [r["user_source"] for r in runs] == ["session", "parent"]
    assert "NOPERM" not in nginx.log()
    assert server.client.acl_log() == []


def test_the_documented_acl_suffices_for_sessions(nginx, redis, redis_server):
    server = redis_server()
    command = re.search(r"^(ACL SETUSER sessions .+)$", read("docs/redis.md"),
                        re.M).group(1)
    server.client.execute_command(*command.split())
    server.client.hset("sess:abc", mapping={"user_id": "ann"})
    server.client.set("sess:def", '{"user_id": "bob"}')
    call = {"model": "gpt-4o", "messages": [{"role": "user", "content": "a"}]}

    nginx = nginx(
        ACL.replace("sess:$cookie_sid", "sess:$cookie_sid redis=other")
        .replace("lunary_spool", "lunary_redis other {{ other }};\n"
                 "    lunary_spool"), redis=redis.url,
        other=server.url.replace("redis://", "redis://sessions:secret@"))
    for sid in "abc", "def":
        assert nginx.post(json=call,
                          headers={"Cookie": f"sid={sid}"}).status == 200

    assert "NOPERM" not in nginx.log()
    assert server.client.acl_log() == []


def test_the_documented_acl_suffices_for_an_operator(redis_server):
    server = redis_server()
    command = re.search(r"^(ACL SETUSER operator .+)$", read("docs/redis.md"),
                        re.M).group(1)
    for user in "ann", "bob":
        server.client.xadd("lunary:runs", run(user_id=user, thread_id="t"))
        server.client.xadd("lunary:runs:dead", run(user_id=user))
    once(server.url, "ledger", "--once")
    server.client.hset("lunary:thread:t", mapping={"app": "default",
                                                   "user": "ann"})
    server.client.hset("lunary:policy:default:ann", "blocked", 1)
    server.client.hset("lunary:budget:default:ann:2026-11", "spent", 1)
    server.client.set("lunary:relay:run:default:gone", "p 1 ann")
    server.client.set("lunary:relay:chat:default:gone", "1")
    server.client.execute_command(*command.split())
    url = server.url.replace("redis://", "redis://operator:secret@")

    assert '"ann"' in once(url, "show", "default", "ann").stdout
    for args in ([], ["--yes", "--policy"]):
        once(url, "forget", "default", "ann", *args)

    assert [f["user_id"] for _, f in server.client.xrange("lunary:runs")
            ] == ["bob"]
    assert not [k for k in server.client.keys() if "ann" in k]
    assert server.client.keys("lunary:relay:*") == []
    assert server.client.acl_log() == []


def test_the_documented_acl_suffices_for_the_workers(redis_server, folder):
    server = redis_server()
    command = re.search(r"^(ACL SETUSER worker .+)$", read("docs/redis.md"),
                        re.M).group(1)
    server.client.execute_command(*command.split())
    for one in (run(user_id="ann", user_props={"name": "Ann"}, thread_id="t",
                    user_verified=1),
                run(user_id="bob", parent_run_id=uuid7(1)), run(),
                {"kind": "run"}):
        server.client.xadd("lunary:runs", one)
    lunary = Ingest(keys=("key",)).start()
    (folder / "key").write_text("key\n")
    url = server.url.replace("redis://", "redis://worker:secret@")

    try:
        for args in (["ledger"], ["relay", "--api", lunary.url, "--linger",
                                  "20ms", "--project", f"*={folder}/key"]):
            once(url, *args, "--once")
            once(url, *args, "--once", "--claim-after", "1ms")
        shown = once(url, "users")
    finally:
        lunary.stop()

    assert "ann" in shown.stdout
    assert ("key", "ann") in lunary.users
    assert server.client.acl_log() == []


def test_the_examples_are_the_three_that_are_tested_here():
    assert [p.name for p in EXAMPLES] == ["anthropic.conf", "openai.conf",
                                          "vllm.conf"]
