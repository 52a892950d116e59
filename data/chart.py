"""A line chart as SVG, for a page without any package: lines over steps, each named at its end."""
import math
from dataclasses import dataclass
from html import escape

LABEL_GAP = 15         # least distance between two names, in pixels
LABEL_CHARACTERS = 28  # of a name; what is longer is cut
FEW_POINTS = 30        # a line of so few points shows each as a dot


@dataclass
class Line:
    name: str
    points: list         # (step, value), ascending
    style: str           # a class of the page's style sheet
    labelled: bool = True


@dataclass
class Frame:
    """Where the lines are drawn: pixels, and what they stand for."""
    width: int
    height: int
    right_margin: int    # where the names stand
    last_step: int
    ticks: list          # values, ascending; the lines lie between the first and the last
    log: bool = False    # equal factors have equal heights
    left: int = 50
    top: int = 16
    bottom_margin: int = 26

    @property
    def right(self):
        return self.width - self.right_margin

    @property
    def bottom(self):
        return self.height - self.bottom_margin

    def x(self, step):
        return self.left + (self.right - self.left) * step / self.last_step

    def y(self, value):
        low, high, value = (self.scaled(v) for v in (self.ticks[0], self.ticks[-1], value))
        return self.bottom - (self.bottom - self.top) * (value - low) / (high - low)

    def scaled(self, value):
        return math.log(value) if self.log else value


def line_chart(title, lines, frame, form, spans=(), reference=None):
    """The chart as the text of an <svg>.

    form:      a function from a value to its text.
    spans:     (first step, last step, name) of periods that are shaded.
    reference: a value with a dashed line of its own, such as chance.
    """
    parts = [f'<svg class="chart" viewBox="0 0 {frame.width} {frame.height}" role="img" '
             f'aria-label="{escape(title)}">']
    for row, (first, last, name) in enumerate(spans):
        parts.append(shaded(frame, first, last, name, row))
    for value in frame.ticks:
        parts.append(horizontal(frame, value, "grid"))
        parts.append(text(frame.left - 7, frame.y(value) + 4, form(value), "tick end"))
    for step in step_ticks(frame.last_step):
        parts.append(text(frame.x(step), frame.bottom + 17, str(step), "tick middle"))
    if reference is not None:
        parts.append(horizontal(frame, reference, "reference"))
    for line in lines:
        parts.append(path(line, frame, form))
    named = [line for line in lines if line.labelled]
    wanted = [frame.y(line.points[-1][1]) for line in named]
    for line, y in zip(named, spread(wanted, frame.top, frame.bottom)):
        name = shortened(line.name, LABEL_CHARACTERS)
        words = f"{form(line.points[-1][1])} {name}".strip()
        parts.append(text(frame.right + 8, y + 4, words, f"name {line.style}"))
    parts.append("</svg>")
    return "\n".join(parts)


def path(line, frame, form):
    """The line itself, with what it says under the mouse."""
    places = [f"{frame.x(step):.1f},{frame.y(value):.1f}" for step, value in line.points]
    first = line.points[0][1]
    last = line.points[-1][1]
    hint = escape(f"{line.name}: {form(first)} → {form(last)}")
    parts = [f'<g class="line {line.style}"><title>{hint}</title>'
             f'<polyline points="{" ".join(places)}"/>']
    if len(line.points) <= FEW_POINTS:
        for step, value in line.points:
            hint = escape(f"{line.name}, step {step}: {form(value)}")
            parts.append(f'<circle cx="{frame.x(step):.1f}" cy="{frame.y(value):.1f}" r="3">'
                         f'<title>{hint}</title></circle>')
    return "".join([*parts, "</g>"])


def horizontal(frame, value, style):
    y = f"{frame.y(value):.1f}"
    return f'<line class="{style}" x1="{frame.left}" x2="{frame.right}" y1="{y}" y2="{y}"/>'


def shaded(frame, first, last, name, row):
    """A period, with its name in a row of its own."""
    x = frame.x(first)
    width = frame.x(last) - x
    return (f'<rect class="span" x="{x:.1f}" y="{frame.top}" width="{width:.1f}" '
            f'height="{frame.bottom - frame.top}"/>'
            + text(x + 5, frame.top + 13 + 14 * row, name, "span-name"))


def text(x, y, words, style):
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}">{escape(words)}</text>'


def shortened(words, most):
    return words if len(words) <= most else words[:most - 1] + "…"


def spread(wanted, low, high):
    """Places near the wanted ones that are LABEL_GAP apart, in the order of `wanted`.

    Each moves down as far as the one above pushes it; then, if the last is too low, all move up as
    far as the one below pushes them: [10, 12, 60] -> [10, 25, 60].
    """
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    places = list(wanted)
    lowest = low
    for k in order:
        places[k] = max(places[k], lowest)
        lowest = places[k] + LABEL_GAP
    highest = high
    for k in reversed(order):
        places[k] = min(places[k], highest)
        highest = places[k] - LABEL_GAP
    return places


# ---------------------------------------------------------------- ticks

def step_ticks(last, most=6):
    """Round numbers of steps from 0 to the last."""
    distance = max(1, int(round_distance(last / most)))
    return list(range(0, last + 1, distance))


def even_ticks(low, high, most=5):
    """Round values, equally far apart, that hold low and high between them."""
    if high - low < 1e-9:
        low -= 0.05 * max(1, abs(low))
        high += 0.05 * max(1, abs(high))
    distance = round_distance((high - low) / most)
    first = math.floor(low / distance + 1e-9)
    last = math.ceil(high / distance - 1e-9)
    return [k * distance for k in range(first, last + 1)]


def round_distance(least):
    """The smallest of 1, 2 and 5 times a power of ten that is at least so large."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def doubling_ticks(low, high):
    """Powers of two that hold low, high and 1 between them; at most eight of them."""
    first = math.floor(math.log2(min(low, 0.5)) + 1e-9)
    last = math.ceil(math.log2(max(high, 2)) - 1e-9)
    stride = math.ceil((last - first) / 7)
    return [2.0 ** k for k in range(first, last + stride, stride)]
