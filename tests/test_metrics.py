"""What operators are told of the metrics."""

import re

import promql_parser
import yaml
from prometheus_client import REGISTRY

from app.metrics import PublishedData
from tests.processes import ROOT

DOCUMENTED = re.findall(r"^\| `(\w+)`", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)


def test_the_example_alerts_ask_for_metrics_that_there_are() -> None:
    """And in a language that Prometheus speaks."""
    document = yaml.safe_load((ROOT / "docs" / "prometheus-alerts.yml").read_text())
    rules = [rule for group in document["groups"] for rule in group["rules"]]
    asked = set()
    for rule in rules:
        promql_parser.parse(rule["expr"])
        asked |= set(re.findall(r"\bpypi_stats_\w+", rule["expr"]))
        assert rule["annotations"]["summary"]
        assert rule["for"]
    assert asked <= set(DOCUMENTED)
    assert {"pypi_stats_data_age_days", "pypi_stats_held_days"} <= asked


def test_ours_are_told_by_their_names() -> None:
    ours = {family.name for family in REGISTRY.collect() if family.name.startswith("pypi_stats_")}
    # Those of what is published are told by `exposition`.
    assert len(ours) + len(list(PublishedData(0, 0, 0, 0).collect())) == len(DOCUMENTED)
