"""A bench's results in the form of the sCM paper's tables, beside the figures printed there."""

from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import mean

from scmkit.composing.recipe import Recipe
from scmkit.plugin import Slot
from scmkit.reporting.axes import number
from scmkit.reporting.cost import duration
from scmkit.reporting.sections.metrics import titled
from scmkit.reporting.trials import published
from scmkit.reporting.trials.plan import Cell, parts_of
from scmkit.reporting.trials.presets import Setting
from scmkit.reporting.trials.published import PUBLISHED, SIZES, Fid
from scmkit.reporting.trials.running import Result
from scmkit.reporting.trials.summary import Estimate, Line, summarise

NOTES = (
    "‡ Another data set, network and budget: FID of 50,000 samples from the sCM paper (arXiv 2410.11081v2, "
    "Tables 1 and 2), where it has the method at this NFE; at another NFE, that stands beside it",
    "training: seconds by the runs' logs, with those of the teacher that a method starts from; "
    "real data: ± where 95% of random splits lie",
)
COLUMNS = {"one": ("FID, CIFAR-10 ‡", "FID, ImageNet 64 ‡"), "two": ("FID, ImageNet 512 ‡",)}


def table_form(
    table: str, setting: Setting, results: Sequence[Result], data: str
) -> list[list[str]]:
    """The rows of a table for one data set, the head first; a group's heading is alone in its row."""
    lines = [line for line in summarise(results) if line.data == data]
    metrics = list(dict.fromkeys(k for line in lines for k in line.metrics))
    larger = frozenset[str]().union(*(line.larger_is_better for line in lines))
    guided = any(line.guidance is not None for line in lines)
    where = ["NFE", "guidance"] if guided else ["NFE"]
    head = ["method", *where, *(titled(m, larger) for m in metrics), "parameters", "training"]
    head += COLUMNS[table]
    labels = labels_of(setting.plan.methods)
    blank = [""] * len(COLUMNS[table])
    rows = [head]
    for line in lines:
        if not line.method:
            empty = [""] * len(where)
            rows.append([line.name, *empty, *_cells(line, metrics), "", "", *blank])
    grouped: dict[str, list[str]] = {}
    for method in dict.fromkeys(line.method for line in lines if line.method):
        recipe = setting.plan.recipe(Cell(data, method, 0))
        grouped.setdefault(group_of(recipe), []).append(method)
    for group in sorted(grouped, key=published.GROUPS.index):
        rows.append([group, *[""] * (len(head) - 1)])
        for method in _by_best(grouped[group], lines):
            recipe = setting.plan.recipe(Cell(data, method, 0))
            mine = [line for line in lines if line.method == method]
            papers = _papers(recipe.slots[Slot.loss], setting.sizes.get(method, ""), table)
            shown = [_beside([li.nfe or 0 for li in mine], fid) for fid in papers]
            costs = _costs([r for r in results if r.cell.method == method and r.cell.data == data])
            for i, line in enumerate(mine):
                names = [labels[method] if i == 0 else "", f"{line.nfe or 0:g}"]
                if guided:
                    names.append("" if line.guidance is None else f"{line.guidance:g}")
                own = costs if i == 0 else ["", ""]
                rows.append(
                    [*names, *_cells(line, metrics), *own, *(column[i] for column in shown)]
                )
    return rows


def notes_of(setting: Setting) -> Iterator[str]:
    """What stands below a table: the meaning of columns, and the methods that are not in it, with reasons."""
    yield from NOTES
    reasons: dict[str, list[str]] = {}
    for method, why in setting.left_out.items():
        reasons.setdefault(why, []).append(short(method))
    for why, methods in reasons.items():
        yield f"not in the table: {', '.join(methods)}: {why}"


def group_of(recipe: Recipe) -> str:
    """The paper's group of a method, or one by what its loss declares."""
    loss = recipe.slots[Slot.loss]
    if (known := PUBLISHED.get(loss)) is not None:
        return known.group
    if recipe.makes == "diffusion":
        return published.DIFFUSION
    if recipe.players:
        return published.JOINT
    if recipe.plugin(loss)[1].starts_from == "teacher":
        return published.DISTILLATION
    if recipe.makes == "consistency":
        return published.CONSISTENCY
    return published.FLOW_MAPS if recipe.makes == "flow-map" else published.OTHERS


def short(method: str) -> str:
    """A method by its last plugin and its settings."""
    plugins, own = parts_of(method)
    return ", ".join([plugins[-1], *(f"{key.partition('.')[2]} {v}" for key, v in own.items())])


def labels_of(methods: Sequence[str]) -> dict[str, str]:
    """Methods by what is `short`, or in whole where that would mean several of them."""
    known = {method: short(method) for method in methods}
    shared = Counter(known.values())
    return {m: label if shared[label] == 1 else m for m, label in known.items()}


def _papers(loss: str, size: str, table: str) -> list[Fid]:
    if table == "two":
        return [SIZES.get(loss, {}).get(size, {})]
    known = PUBLISHED.get(loss)
    return [{}, {}] if known is None else [known.cifar10, known.imagenet64]


def _beside(nfe: Sequence[float], fid: Fid) -> list[str]:
    """The published figures for rows of a method; those at NFE that no row has are told in the first."""
    shown = [f"{fid[n]:.2f}" if n in fid else "" for n in nfe]
    if not any(shown):
        shown[0] = ", ".join(f"{value:.2f} at {n:g}" for n, value in fid.items())
    return shown


def _by_best(methods: Sequence[str], lines: Sequence[Line]) -> list[str]:
    """Methods by their first metric at the smallest number of evaluations, the best first."""

    def place(method: str) -> float:
        first = next(line for line in lines if line.method == method)
        name, value = next(iter(first.metrics.items()), ("", None))
        if value is None:
            return float("inf")
        return -value.mean if name in first.larger_is_better else value.mean

    return sorted(methods, key=place)


def _cells(line: Line, metrics: Sequence[str]) -> list[str]:
    return [_shown(line.metrics.get(metric)) for metric in metrics]


def _shown(value: Estimate | None) -> str:
    if value is None:
        return ""
    half = "" if value.half is None else f" ± {number(value.half, 2)}"
    return f"{number(value.mean)}{half}"


def _costs(results: Sequence[Result]) -> list[str]:
    done = [result for result in results if result.error is None]
    teacher = mean(r.teacher_seconds for r in done)
    above = "" if done[0].teacher is None else f" + {duration(teacher)}"
    return [number(done[0].parameters), duration(mean(r.seconds for r in done)) + above]
