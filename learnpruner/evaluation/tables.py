"""The table and the report page of a run, made from its results (the contents of results.json) alone."""

from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

Result = Mapping[str, Any]
Table = list[list[str]]


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def interval(retention: Mapping[str, float | None]) -> str:
    """Retention with its 95 % interval: 93.7 [91.0, 96.2]."""
    if retention["value"] is None:
        return "-"
    return f"{percent(retention['value'])} [{percent(retention['low'])}, {percent(retention['high'])}]"


def named(name: str, row: Result) -> str:
    """A plan as tables call it: one that changes the model itself says so."""
    return f"{name} ({row['adapts']})" if row.get("adapts") else name


def table(result: Result, label: str = "learnpruner") -> Table:
    """Header, the unpruned model, the baselines from worst to best, then the plan itself as `label`."""
    columns = list(result["unpruned"])

    def row(name: str, one: Result) -> list[str]:
        accuracy = [percent(one["accuracy"][column]) for column in columns]
        return [named(name, one), f"{one['tokens']['averaged']:.1f}", *accuracy, interval(one["retention"])]

    cells = [["plan", "tokens", *columns, "retention, 95 %"]]
    cells.append(["unpruned", "all", *(percent(result["unpruned"][column]) for column in columns), "100.0"])
    ranked = sorted(result["baselines"].items(), key=lambda item: (item[1]["retention"]["value"] or 0.0, item[0]))
    cells.extend(row(name, one) for name, one in ranked)
    if result["plan"] is not None:
        cells.append(row(label, result))
    return cells


def text(cells: Table) -> str:
    """Aligned columns for a terminal: names to the left, numbers to the right, a rule under the header."""
    first, *others = (max(map(len, column)) for column in zip(*cells, strict=True))
    lines = []
    for name, *values in cells:
        numbers = (value.rjust(width) for value, width in zip(values, others, strict=True))
        lines.append("  ".join([name.ljust(first), *numbers]))
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def markdown(cells: Table) -> str:
    """The same table for a README."""
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([lines[0], "|---" + "|---:" * (len(cells[0]) - 1) + "|", *lines[1:]])


def read_markdown(page: str) -> Table:
    """The first table of a page that `markdown` wrote."""
    lines = page.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("|---")) - 1
    table = takewhile(lambda line: line.startswith("| "), [lines[first], *lines[first + 2 :]])
    return [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in table]


def left_out(unpruned: Mapping[str, float | None]) -> str:
    """A sentence on the kinds that retention leaves out, "" where it counts all. unpruned: accuracy by kind, and their mean."""
    kinds = [kind for kind, accuracy in unpruned.items() if accuracy == 0 and kind != "mean"]
    return f"Retention leaves out {', '.join(kinds)}, where the unpruned model has nothing right." if kinds else ""


def summary(result: Result) -> str:
    """What the plan keeps, how far that is from the best baseline, and over which kinds."""
    return f"{comparison(result)} {left_out(result['unpruned'])}".rstrip()


def comparison(result: Result) -> str:
    """One sentence on what the plan keeps, and how far that is from the best baseline."""
    own = result["retention"]["value"]
    if result["plan"] is None or own is None:
        mean = percent(result["unpruned"]["mean"])
        return f"Unpruned: mean accuracy {mean} % on {result['samples']} samples of {result['benchmark']}."
    tokens = result["tokens"]["averaged"]
    sentence = f"Keeps {percent(own)} % of the unpruned score with {tokens:.1f} visual tokens on average"
    known = {name: one["retention"]["value"] for name, one in result["baselines"].items()}
    best = max((name for name in known if known[name] is not None), key=lambda name: known[name], default=None)
    if best is None:
        return sentence + "."
    points = 100 * (own - known[best])
    return f"{sentence}; {abs(points):.1f} points {'above' if points >= 0 else 'below'} the best baseline ({best})."


def sweep(results: Sequence[Result]) -> Table:
    """One row a result, from the most tokens to the fewest: what each budget keeps, beside the best baseline."""
    cells = [["prune_ratio", "tokens", "mean", "retention, 95 %", "best baseline", "its retention"]]
    for result in sorted(results, key=lambda result: -result["tokens"]["averaged"]):
        known = {name: one["retention"] for name, one in result["baselines"].items()}
        best = max(known, key=lambda name: known[name]["value"] or 0.0, default=None)
        own = [f"{result['prune_ratio']:g}", f"{result['tokens']['averaged']:.1f}", percent(result["accuracy"]["mean"])]
        cells.append([*own, interval(result["retention"]), best or "-", interval(known[best]) if best else "-"])
    return cells


def speed(result: Result) -> Table:
    """Milliseconds of each plan at each batch size, how many times faster than the unpruned model, and GPU memory."""
    timings = [(batch["batch_size"], *one) for batch in result["batches"] for one in batch["timings"].items()]
    keys = [key for key in timings[0][2] if key.endswith("_ms")]
    names = [key[:-3].replace("_", " ").replace("ttft", "TTFT") for key in keys]
    units = ["ms/token" if name == "decode" else "ms" for name in names]
    heads = [f"{name} {unit}" for name, unit in zip(names, units, strict=True)]
    cells = [["batch", "plan", *heads, *names, "peak MiB"]]
    for size, name, timing in timings:
        times = [f"{timing[key]:.1f}" for key in keys]
        gains = [f"{timing['speedup_' + key[:-3]]:.2f}x" for key in keys]
        peak = f"{timing['peak_bytes'] / 2**20:.0f}" if timing["peak_bytes"] else "-"
        cells.append([str(size), name, *times, *gains, peak])
    return cells


def train_step(result: Result) -> Table:
    """Milliseconds and GPU memory of a training step, beside those of the unpruned model's forward pass."""
    base = result["forward"]["ms"]
    cells = [["images", "pass", "ms", "of a forward pass", "kept for backward MiB", "peak MiB"]]
    for name, one in (("unpruned forward", result["forward"]), ("training step", result["step"])):
        peak = f"{one['peak_bytes'] / 2**20:.0f}" if one["peak_bytes"] else "-"
        kept = f"{one['saved_bytes'] / 2**20:.0f}" if "saved_bytes" in one else "-"
        cells.append([str(result["images"]), name, f"{one['ms']:.1f}", f"{one['ms'] / base:.2f}x", kept, peak])
    return cells


def cost(values: Mapping[str, Any]) -> str:
    """One sentence on FLOPs and KV bytes of one prompt."""
    before, after, ratio = values["unpruned"], values["pruned"], values["ratio"]
    giga = [one["flops"]["total"] / 1e9 for one in (before, after)]
    mebi = [one["kv_bytes"] / 2**20 for one in (before, after)]
    return (
        f"One prompt with {values['text_tokens']} text tokens: {giga[0]:.2f} -> {giga[1]:.2f} GFLOPs to the first token "
        f"({ratio['flops']:.2f}x fewer), KV cache {mebi[0]:.2f} -> {mebi[1]:.2f} MiB ({ratio['kv_bytes']:.2f}x smaller)."
    )


def write_page(result: Result, path: Path, pictures: Sequence[Path] = (), label: str = "learnpruner") -> Path:
    """The report page in Markdown: what was measured, the table, the pictures."""
    head = f"# {label} on {result['benchmark']}\n\n{summary(result)}"
    facts = f"Backbone {result['backbone']}, {result['samples']} samples, commit {result['commit'] or 'unknown'}."
    images = [f"![{picture.stem}]({picture.name})" for picture in pictures]
    path.write_text("\n\n".join([head, facts, markdown(table(result, label)), *images]) + "\n", encoding="utf-8")
    return path
