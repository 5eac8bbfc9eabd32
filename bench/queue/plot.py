"""The figures of a run as one picture. SVG by hand: three panels do not ask for a library."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from bench.queue.result import Joining, Result, Watching

_WIDTH, _HEIGHT = 330, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 62, 34
# Told apart by people who see colours differently, too (Okabe and Ito).
_COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
_STEPS: Final = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True)
class _Panel:
    """Lines over points that stand evenly beside each other."""

    title: str
    points: Sequence[str]
    series: Mapping[str, Sequence[float]]

    def top(self) -> float:
        """A round number above everything."""
        most = max((value for values in self.series.values() for value in values), default=0) or 1
        size = float(f"1e{len(str(int(most))) - 1}")
        return next(step * size for step in _STEPS if step * size >= most)

    def x(self, at: int) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (at + 0.5) / len(self.points)

    def y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * value / self.top()

    def draw(self) -> str:
        return "\n".join([_text(_LEFT, 18, self.title, "title"), *self._grid(), *self._lines()])

    def _grid(self) -> list[str]:
        parts = []
        for quarter in range(5):
            value = self.top() * quarter / 4
            y = self.y(value)
            parts.append(f'<line stroke="#ddd" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(_text(_LEFT - 6, y + 4, _short(value), "end"))
        return parts + [_text(self.x(at), _HEIGHT - 14, point, "middle") for at, point in enumerate(self.points)]

    def _lines(self) -> list[str]:
        parts = []
        for at, (name, values) in enumerate(self.series.items()):
            spots = [(self.x(number), self.y(value)) for number, value in enumerate(values)]
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
            parts.append(f'<polyline fill="none" stroke="{_COLOURS[at]}" stroke-width="2" points="{path}"/>')
            parts += [f'<circle fill="{_COLOURS[at]}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in spots]
            x, y = _LEFT + at % 2 * 140, 36 + at // 2 * 14
            parts.append(f'<rect fill="{_COLOURS[at]}" x="{x}" y="{y - 8}" width="9" height="9"/>')
            parts.append(_text(x + 14, y, name, "start"))
        return parts


def svg(result: Result) -> str:
    """The picture, ready for a file."""
    panels = [_joins(result), _cpu(result), _late(result)]
    drawn = "\n".join(f'<g transform="translate({at * _WIDTH},0)">{each.draw()}</g>' for at, each in enumerate(panels))
    size = f'width="{_WIDTH * len(panels)}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH * len(panels)} {_HEIGHT}"'
    style = (
        "text{font:11px sans-serif;fill:#333}.title{font-weight:bold;font-size:12px}.end{text-anchor:end}"
        ".middle{text-anchor:middle}"
    )
    ground = '<rect width="100%" height="100%" fill="#fff"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{style}</style>{ground}\n{drawn}\n</svg>\n'


def _joins(result: Result) -> _Panel:
    lines = [each for each in result.joins if each.where == "line"]
    draws = [each for each in result.joins if each.where == "draw"]
    rate: Callable[[Joining], float] = lambda each: each.per_second  # noqa: E731 - as long as its name
    series = {
        "entering the draw": [*map(rate, draws)],
        "joining the line": [*map(rate, lines)],
        "ceiling: bare ZADD": [each.ceiling_per_second for each in lines],
    }
    return _Panel("joins per second, by people in line", [_about(each.waiting) for each in lines], series)


def _cpu(result: Result) -> _Panel:
    series = {name: [each.cpu.get(name, 0) for each in result.watching] for name in ("edge", "queue", "valkey")}
    return _Panel("ms of CPU per second, by watchers", _watchers(result.watching), series)


def _late(result: Result) -> _Panel:
    watched = [each for each in result.watching if each.lateness and each.freshness]
    late = [each.lateness for each in watched if each.lateness]
    fresh = [each.freshness for each in watched if each.freshness]
    series = {
        "since the digest, p50": [each.p50 for each in late],
        "p99": [each.p99 for each in late],
        "since the change, p50": [each.p50 for each in fresh],
        "p99 ": [each.p99 for each in fresh],
    }
    return _Panel("ms until a watcher is told, by watchers", _watchers(watched), series)


def _watchers(watching: Sequence[Watching]) -> list[str]:
    return [f"{each.watchers:,}" for each in watching]


def _about(people: int) -> str:
    """A line that was measured near a round length."""
    return _short(float(f"{people:.1g}"))


def _short(value: float) -> str:
    if value >= 1_000_000:
        return f"{value / 1_000_000:.3g}M"
    return f"{value / 1000:.3g}k" if value >= 1000 else f"{value:.3g}"


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
