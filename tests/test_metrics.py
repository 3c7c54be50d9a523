"""What operators are told of the metrics."""

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from app import metrics
from app.metrics import PublishedData
from tests.processes import ROOT


def _documented() -> str:
    """The rows of the README's table of metrics."""
    ours = [one for one in vars(metrics).values() if isinstance(one, MetricWrapperBase)]
    rows = []
    for metric in ours:
        (family,) = metric.describe()
        suffix = "_total" if family.type == "counter" else ""
        labels = ", ".join(f"`{name}`" for name in metric._labelnames)
        rows.append(f"| `{family.name}{suffix}` | {labels} | {family.documentation} |")
    registry = CollectorRegistry()
    registry.register(PublishedData(0, 0, 0))
    rows += [f"| `{family.name}` |  | {family.documentation} |" for family in registry.collect()]
    return "\n".join(rows)


def test_the_readme_lists_every_metric() -> None:
    assert _documented() in (ROOT / "README.md").read_text(), (
        f"README.md should have\n{_documented()}"
    )


def test_ours_are_told_by_their_names() -> None:
    ours = {family.name for family in REGISTRY.collect() if family.name.startswith("pypi_stats_")}
    # Those of what is published are told by `exposition`.
    assert len(ours) + len(list(PublishedData(0, 0, 0).collect())) == len(
        _documented().splitlines()
    )
