"""Alerts and dashboards name what there is, and each alert has a runbook and a test."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from docs.dashboards import DASHBOARDS

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "deploy" / "monitoring" / "alerts.yml"
SUFFIXES = r"(_bucket|_sum|_count)?$"


def rules() -> list[dict[str, Any]]:
    [group] = yaml.safe_load(ALERTS.read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def test_every_alert_has_a_runbook() -> None:
    headings = re.findall(r"^## (\w+)$", (ROOT / "docs" / "alerts.md").read_text(), re.MULTILINE)

    assert headings == [rule["alert"] for rule in rules()]
    for rule in rules():
        assert rule["annotations"]["runbook"] == f"docs/alerts.md#{rule['alert'].lower()}"


def test_every_alert_is_shown_to_fire_and_to_clear() -> None:
    cases = yaml.safe_load((ROOT / "tests" / "deploy" / "alerts_test.yml").read_text())["tests"]
    shown = {
        (case["alertname"], bool(case["exp_alerts"]))
        for test in cases
        for case in test["alert_rule_test"]
    }

    assert shown == {(rule["alert"], fires) for rule in rules() for fires in (True, False)}


def test_every_metric_of_an_alert_or_a_panel_is_documented() -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text()
    documented = set(re.findall(r"^\| `(idefiq_\w+)` \|", page, re.MULTILINE))
    queries = [rule["expr"] for rule in rules()]
    for path in DASHBOARDS.glob("*.json"):
        panels = json.loads(path.read_text())["panels"]
        queries += [target["expr"] for panel in panels for target in panel["targets"]]

    named = {
        re.sub(SUFFIXES, "", name) for text in queries for name in re.findall(r"idefiq_\w+", text)
    }

    assert named <= documented
