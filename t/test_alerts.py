"""docs/alerts.yml: valid, and each alert fires when it should and not
otherwise (promtool)."""

import shutil
import subprocess

import pytest

from harness import ROOT

ALERTS = ROOT / "docs" / "alerts.yml"

# alert, the series that make it fire, series that do not, when to look
CASES = [
    ("LunaryRedisDown", {"lunary_redis_connected": "0x20"},
     {"lunary_redis_connected": "1x20"}, "5m"),
    ("LunarySpoolHalfFull",
     {"lunary_spool_used_percent": "51x20"},
     {"lunary_spool_used_percent": "50x20"}, "5m"),
    ("LunaryRunsDropped", {'lunary_runs_dropped_total{reason="full"}':
                           "0+1x20"},
     {'lunary_runs_dropped_total{reason="full"}': "7x20"}, "8m"),
    ("LunaryStreamHeldUp",
     {"lunary_redis_connected": "1x20",
      "lunary_spool_oldest_seconds": "400x20"},
     {"lunary_redis_connected": "1x20",
      "lunary_spool_oldest_seconds": "40x20"}, "5m"),
    ("LunaryRefusalsJump",
     {'lunary_rejected_total{code="user_required"}': "0+1x80 81+600x30"},
     {'lunary_rejected_total{code="user_required"}': "0+1x110"}, "95m"),
    ("LunaryUsageMissing",
     {'lunary_usage_missing_total{api="openai.chat"}': "0+30x60",
      'lunary_runs_total{outcome="ok"}': "0+60x60"},
     {'lunary_usage_missing_total{api="openai.chat"}': "0+1x60",
      'lunary_runs_total{outcome="ok"}': "0+60x60"}, "50m"),
    ("LunaryWorkerDown", {'lunary_worker_up{command="relay"}': "0x20"},
     {'lunary_worker_up{command="relay"}': "1x20"}, "10m"),
    ("LunaryWorkerSilent",
     {'node_textfile_mtime_seconds{file="/d/lunary-relay.prom"}': "0x20"},
     {'node_textfile_mtime_seconds{file="/d/lunary-relay.prom"}': "0+60x20",
      'node_textfile_mtime_seconds{file="/d/apt.prom"}': "0x20"}, "10m"),
    ("LunaryWorkerLag",
     {'lunary_worker_lag{command="relay",stream="s"}': "20000x30"},
     {'lunary_worker_lag{command="relay",stream="s"}': "200x30"}, "20m"),
    ("LunaryDeadLetters",
     {'lunary_worker_dead_total{command="relay"}': "0x5 1x20"},
     {'lunary_worker_dead_total{command="relay"}': "1x25"}, "10m"),
    ("LunaryUnpriced",
     {'lunary_worker_unpriced_total{command="ledger"}': "0+1x600"},
     {'lunary_worker_unpriced_total{command="ledger"}': "0x600"}, "500m"),
]


@pytest.fixture(scope="session")
def promtool():
    path = shutil.which("promtool")
    if not path:
        pytest.skip("no promtool: apt-get install prometheus")
    return path


def fires(promtool, folder, alert, series, at):
    """Whether promtool's own test that nothing fires fails."""
    lines = ["rule_files:", f"  - {ALERTS}", "evaluation_interval: 1m",
             "tests:", "  - interval: 1m", "    input_series:"]
    for name, values in series.items():
        name = name[:-1] + ',instance="web"}' if name.endswith("}") \
            else name + '{instance="web"}'
        lines += [f"      - series: '{name}'", f"        values: '{values}'"]
    lines += ["    alert_rule_test:", f"      - eval_time: {at}",
              f"        alertname: {alert}", "        exp_alerts: []"]
    (folder / "test.yml").write_text("\n".join(lines) + "\n")
    done = subprocess.run([promtool, "test", "rules", folder / "test.yml"],
                          capture_output=True, text=True)
    said = done.stdout + done.stderr
    if done.returncode == 0:
        return False
    assert f"alertname: {alert}" in said and "got:" in said, said
    return True


def test_the_rules_are_valid_and_all_tested(promtool):
    done = subprocess.run([promtool, "check", "rules", ALERTS],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    named = [line.split(":")[1].strip() for line in
             ALERTS.read_text().splitlines() if "- alert:" in line]
    assert named == [c[0] for c in CASES]


@pytest.mark.parametrize("alert, bad, good, at", CASES,
                         ids=[c[0] for c in CASES])
def test_an_alert_fires_when_it_should(promtool, folder, alert, bad, good,
                                       at):
    assert fires(promtool, folder, alert, bad, at)
    assert not fires(promtool, folder, alert, good, at)
