"""What a benchmark found, for people and for programs."""

from typing import Self

from msgspec import Struct, field

from stui_sessions.bench.histogram import Histogram
from stui_sessions.bench.load import Load

_BUSY = 0.85
"""Share of a core from which the load generator is suspected of being the limit."""


class Latency(Struct, frozen=True):
    """Milliseconds from sending a burst to the last of its replies."""

    p50: float
    p99: float
    p99_9: float = field(name="p99.9")
    max: float

    @classmethod
    def of(cls, histogram: Histogram) -> Self:
        p50, p99, p99_9 = (histogram.percentile(percent) / 1000 for percent in (50, 99, 99.9))
        return cls(p50, p99, p99_9, histogram.max / 1000)


class ReportRow(Struct, frozen=True):
    """One kind of request, or all of them."""

    requests: int
    requests_per_second: float
    latency_ms: Latency


class Report(Struct, frozen=True):
    """The outcome of a run."""

    seconds: float
    total: ReportRow
    kinds: dict[str, ReportRow]
    errors: dict[str, int]
    """Error replies by code; they count as requests too."""
    client_cpu: float
    """Share of one core that the load generator used."""

    @classmethod
    def of(cls, load: Load, cpu_seconds: float) -> Self:
        everything = Histogram()
        for histogram in load.latencies.values():
            everything.merge(histogram)

        def row(histogram: Histogram) -> ReportRow:
            requests = histogram.count * load.pipeline
            rate = requests / load.seconds if load.seconds else 0.0
            return ReportRow(requests, round(rate, 1), Latency.of(histogram))

        return cls(
            seconds=round(load.seconds, 3),
            total=row(everything),
            kinds={name: row(histogram) for name, histogram in load.latencies.items()},
            errors=dict(load.errors.most_common()),
            client_cpu=round(cpu_seconds / load.seconds, 3) if load.seconds else 0.0,
        )

    def text(self, pipeline: int) -> str:
        """The report as a table, with what one should know to read it."""
        rows = [*self.kinds.items()]
        if len(rows) > 1:
            rows.append(("total", self.total))
        lines = [f"{'':12}{'requests':>12}{'per second':>13}{'p50 ms':>10}{'p99 ms':>10}{'p99.9 ms':>10}{'max ms':>10}"]
        lines += [_line(name, row) for name, row in rows]
        errors = ", ".join(f"{code} {count:,}" for code, count in self.errors.items())
        lines += ["", f"errors: {errors or 'none'}"]
        if pipeline > 1:
            lines.append(f"Times are those of a burst: from sending {pipeline} requests to the last of their replies.")
        share = f"The load generator used {self.client_cpu:.0%} of a core"
        lines.append(f"{share}: it may be the limit, not the server." if self.client_cpu > _BUSY else f"{share}.")
        return "\n".join(lines)


def _line(name: str, row: ReportRow) -> str:
    latency = row.latency_ms
    times = "".join(f"{ms:>10.2f}" for ms in (latency.p50, latency.p99, latency.p99_9, latency.max))
    return f"{name:12}{row.requests:>12,}{row.requests_per_second:>13,.0f}{times}"
