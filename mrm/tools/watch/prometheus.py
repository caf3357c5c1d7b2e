"""Readings in Prometheus's text format: one table says what there is, and what it means.

Each metric has its HELP and TYPE once, and a line for each pool; labels are pid, pool (the
number in the process) and name, and then account, fund or state.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

_Samples = Iterator[tuple[dict[str, object], int]]


class Metric(NamedTuple):
    """One metric: its name, its type, what it is, and its samples in a reading."""

    name: str
    kind: str
    help: str
    samples: Callable[[dict[str, Any]], _Samples]


def _one(*path: str) -> Callable[[dict[str, Any]], _Samples]:
    def samples(reading: dict[str, Any]) -> _Samples:
        value: Any = reading
        for step in path:
            value = value[step]
        yield {}, value

    return samples


def _each(table: str, label: str, field: str) -> Callable[[dict[str, Any]], _Samples]:
    def samples(reading: dict[str, Any]) -> _Samples:
        for row in reading[table]:
            yield {label: row["name"]}, row[field]

    return samples


def _states(reading: dict[str, Any]) -> _Samples:
    for state, n in reading["frames"].items():
        yield {"state": state}, n


def _info(reading: dict[str, Any]) -> _Samples:
    pool = reading["pool"]
    yield {"backing": pool["backing"], "version": pool["version"], "command": reading["owner"]["command"]}, 1


METRICS = (
    Metric("mrm_pool_info", "gauge", "A pool that is open; always 1.", _info),
    Metric("mrm_pool_size_bytes", "gauge", "Bytes of memory that it has now.", _one("pool", "size")),
    Metric("mrm_pool_frame_size_bytes", "gauge", "Bytes of a frame.", _one("pool", "frame_size")),
    Metric("mrm_pool_opened_seconds", "gauge", "When it was opened, since 1970.", _one("pool", "opened")),
    Metric("mrm_pool_frames", "gauge", "Frames by state; they add up to the pool.", _states),
    Metric("mrm_pool_counted_frames", "gauge", "Frames counted for this; the rest is estimated.", _one("counted")),
    Metric("mrm_pool_mapped_frames", "gauge", "Frames that a reservation shows.", _one("mapped")),
    Metric("mrm_pool_deferred_aliases", "gauge", "Aliases that wait for a retire.", _one("pending")),
    Metric("mrm_pool_views_open", "gauge", "Views that are open.", _one("figures", "views_open")),
    Metric("mrm_pool_views_retired", "gauge", "Views retired and not closed.", _one("figures", "views_retired")),
    Metric("mrm_pool_reservations", "gauge", "Reservations that are open.", _one("figures", "reservations")),
    Metric("mrm_pool_views_opened_total", "counter", "Views opened.", _one("figures", "views_opened")),
    Metric("mrm_pool_batches_total", "counter", "Batches committed.", _one("figures", "batches")),
    Metric("mrm_pool_retires_total", "counter", "Retires begun.", _one("figures", "epoch")),
    Metric(
        "mrm_pool_system_calls_total", "counter", "System calls made by commits and retires.",
        _one("figures", "system_calls"),
    ),
    Metric(
        "mrm_account_stack_changes_total", "counter",
        "Takes and gives through the account's free lists, an array as one; modulo 2**32.",
        _each("accounts", "account", "stack_changes"),
    ),
    *(
        Metric(f"mrm_account_{field}_frames", "gauge", text, _each("accounts", "account", field))
        for field, text in {
            "balance": "Frames promised to the account.",
            "balance_low": "Lowest balance since the watermarks were reset.",
            "balance_high": "Highest balance since the watermarks were reset.",
            "allocated": "Frames that it holds, or that wait for a retire.",
            "allocated_low": "Fewest of these since the watermarks were reset.",
            "allocated_high": "Most of these since the watermarks were reset.",
            "limit": "Frames that it may have at the most.",
            "cached": "Frames free in its own lists, charged to it too.",
            "overdrawn": "Frames lent to it beyond its balance.",
        }.items()
    ),
    *(
        Metric(f"mrm_fund_{name}", "gauge", text, _each("funds", "fund", field))
        for name, field, text in (
            ("size_frames", "frames", "Frames that the fund stands for."),
            ("granted_frames", "granted", "Balances of accounts granted by it."),
            ("lent_frames", "lent", "Frames lent by it to accounts beyond their balances."),
            ("available_frames", "available", "Frames that it has neither granted nor lent."),
        )
    ),
)  # fmt: skip


def exposition(readings: list[dict[str, Any]]) -> str:
    """All metrics of all readings, as text."""
    lines = []
    for metric in METRICS:
        lines.append(f"# HELP {metric.name} {metric.help}")
        lines.append(f"# TYPE {metric.name} {metric.kind}")
        for reading in readings:
            pool = {
                "pid": reading["owner"]["pid"],
                "pool": reading["pool"]["number"],
                "name": reading["pool"]["name"],
            }
            for labels, value in metric.samples(reading):
                lines.append(f"{metric.name}{{{_labels({**pool, **labels})}}} {value}")
    return "".join(f"{line}\n" for line in lines)


def _labels(labels: dict[str, object]) -> str:
    return ",".join(f'{name}="{_escaped(str(value))}"' for name, value in labels.items())


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
