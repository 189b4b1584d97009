"""The peers' table says what the results say: order, figures, reasons; the CSV and the picture hold the same rows."""

import csv
import json

import pytest

from learnpruner.comparison import table
from learnpruner.comparison.plot import GREY, draw_peers, main

RATIOS = [0.5, 0.1]


def row(method, ratio, value=None, status="ok", **others):
    ran = status == "ok"
    return {
        "method": method, "plan": method, "prune_ratio": ratio, "status": status, "why": "" if ran else "no, as it is.",
        "smallest": None, "reconstruction": False, "fallback": "", "adapts": None, "positions": "original" if ran else None,
        "accuracy": {"existence": value, "mean": value} if ran else None,
        "retention": {"value": value, "low": value, "high": value} if ran else None,
        "tokens": {"entering": 64 * ratio, "averaged": 64 * ratio, "final": 64 * ratio} if ran else None,
        "prefill_ratio": 2.5 if ran else None, "flops_ratio": 3.0 if ran else None, "kv_ratio": 4.0 if ran else None,
        "selection_ms": 1.25 if ran else None, "signals_ms": 0.5 if ran else None,
    } | others  # fmt: skip


@pytest.fixture
def result():
    rows = [
        row("weak", 0.5, 0.6, fallback="no text tower, relevance is 1"), row("weak", 0.1, 0.2),
        row("late", 0.5, 0.99), row("late", 0.1, status="infeasible", smallest=0.4),
        row("ours", 0.5, 0.9, plan="checkpoints/x"), row("ours", 0.1, 0.8, plan="checkpoints/x"),
        row("guess", 0.5, 0.7, reconstruction=True), row("guess", 0.1, 0.5, reconstruction=True),
        row("raw", 0.5, status="untrained"), row("raw", 0.1, status="untrained"),
        row("late2", 0.5, 0.5), row("late2", 0.1, status="infeasible", smallest=0.4),
    ]  # fmt: skip
    return {
        "plan": None, "backbone": "nano", "benchmark": "scenes", "samples": 10, "prune_ratios": RATIOS, "tokens": 64,
        "unpruned": {"existence": 1.0, "mean": 1.0}, "rows": rows, "hardware": {"processor": "CPU", "threads": 1},
        "versions": {}, "commit": None,
    }  # fmt: skip


def test_methods_are_ranked_at_the_smallest_budget_then_at_the_next(result):
    assert table.ranked(result["rows"]) == ["ours", "guess", "weak", "late", "late2", "raw"]


def test_the_overview_has_a_row_a_method_and_a_reason_for_each_gap(result):
    cells = {cell[0]: cell[1:] for cell in table.overview(result)}
    assert next(iter(cells)).startswith("retention")
    assert cells["ours"] == ["90.0 [90.0, 90.0]", "80.0 [80.0, 80.0]", "1.2"]
    assert cells["late"][1] == "infeasible, at least 0.4"
    assert cells["raw"] == ["not trained", "not trained", "-"]
    assert "guess (reconstruction)" in cells


def test_a_plan_that_adapts_the_model_says_so(result):
    for one in result["rows"]:
        one["adapts"] = "adapts the projector" if one["method"] in ("ours", "guess") else None
    names = [cells[0] for cells in table.overview(result)]
    assert names[1:4] == ["ours (adapts the projector)", "guess (reconstruction) (adapts the projector)", "weak"]


def test_a_budget_shows_every_column_of_every_method(result):
    cells = table.budget(result, 0.1)
    assert len({len(line) for line in cells}) == 1
    lines = {line[0]: dict(zip(cells[0], line, strict=True)) for line in cells}
    assert list(lines) == ["method", "unpruned", "ours", "guess (reconstruction)", "weak", "late", "late2", "raw"]
    ours = lines["ours"]
    assert (ours["existence"], ours["retention, 95 %"]) == ("80.0", "80.0 [80.0, 80.0]")
    assert (ours["tokens entering"], ours["averaged"], ours["final"]) == ("6.4", "6.4", "6.4")
    assert (ours["prefill"], ours["FLOPs"], ours["KV"]) == ("2.50x", "3.00x", "4.00x")
    assert lines["late"]["existence"] == "infeasible, at least 0.4"


def test_the_page_tells_what_a_reader_must_know(result):
    page = table.page(result, "peers.png")
    for words in (
        "ours learns: checkpoints/x",
        "raw has no figures: no, as it is.",
        "reconstruction is a method",
        "peers.png",
    ):
        assert words in page
    assert "late has no figures" not in page  # its cells say why
    assert "## prune_ratio 0.1: 6 of 64 tokens" in page
    plain = {**result, "rows": [one for one in result["rows"] if one["method"] == "weak"]}
    assert "reconstruction" not in table.page(plain)


def test_scores_on_difficult_samples_are_a_column_of_each_budget_and_of_the_overview(result):
    rows = result["rows"]
    for one in rows:
        if one["status"] == "ok" and one["method"] != "late":
            one["difficult"] = {
                "samples": 7 if one["prune_ratio"] == 0.1 else 3,
                "value": 0.5,
                "low": 0.25,
                "high": 0.75,
            }
    small = row("downsampling", 0.1, 0.3, difficult={"samples": 7, "value": 0.0, "low": 0.0, "high": 0.0})
    told = {**result, "rows": [*rows, row("downsampling", 0.5, 0.3), small]}
    cells = table.budget(told, 0.1)
    place = cells[0].index("difficult, n = 7")
    found = {line[0]: line[place] for line in cells}
    assert (
        found["unpruned"] == "100.0"
        and found["ours"] == "50.0 [25.0, 75.0]"
        and found["downsampling"] == "0.0 [0.0, 0.0]"
    )
    assert {len(line) for line in cells} == {len(cells[0])}
    over = table.overview(told)
    assert over[0][3] == "difficult, n = 7 at 0.1" and {line[0]: line[3] for line in over}["late"] == "-"
    assert "2510.07143" in table.page(told)


def test_the_csv_holds_every_row(result, tmp_path):
    with table.write_method_csv(result, tmp_path / "peers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(one["method"], float(one["prune_ratio"])) for one in rows] == [
        (one["method"], one["prune_ratio"]) for one in result["rows"]
    ]
    assert (rows[0]["existence"], rows[0]["retention_low"], rows[0]["tokens_final"]) == ("0.6", "0.6", "32.0")
    assert (rows[3]["status"], rows[3]["smallest"], rows[3]["existence"]) == ("infeasible", "0.4", "")


def test_the_picture_has_a_line_a_method_that_ran(result, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("learnpruner.comparison.plot.saved", lambda figure, path: drawn.append(figure) or path)
    draw_peers(result, tmp_path / "peers.png", main="ours")
    axes = drawn[0].axes[0]
    lines = {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}
    assert list(lines) == ["ours", "guess (reconstruction)", "weak", "late", "late2"]
    assert axes.get_xscale() == "log"
    assert lines["ours"].get_xdata().tolist() == pytest.approx([6.4, 32.0])
    assert lines["ours"].get_ydata().tolist() == pytest.approx([80.0, 90.0])


def test_eight_methods_have_a_colour_and_a_name_and_the_rest_is_grey(result, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("learnpruner.comparison.plot.saved", lambda figure, path: drawn.append(figure) or path)
    names = ["ours", "random", "fastv", *"abcdefgh"]
    rows = [row(method, ratio, 0.9 - i / 50) for i, method in enumerate(names) for ratio in RATIOS]
    draw_peers({**result, "rows": rows}, tmp_path / "peers.png", main="ours")
    axes = drawn[0].axes[0]
    lines = [line for line in axes.lines if not line.get_label().startswith("_")]
    coloured = [line.get_label() for line in lines if line.get_color() != GREY]
    assert coloured == ["ours", "random", "fastv", *"abcde"]  # the main one, the usual ones, the best of the others
    texts = {text.get_text(): text for text in axes.texts}
    assert set(coloured) <= set(texts) and "grey: 3 further methods" in texts and not {"f", "g", "h"} & set(texts)
    drawn[0].canvas.draw()
    boxes = [texts[name].get_window_extent() for name in coloured]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_the_picture_is_drawn_again_from_its_results(result, tmp_path, capsys):
    (tmp_path / "results.json").write_text(json.dumps(result))
    main([str(tmp_path / "results.json"), str(tmp_path / "peers.png")])
    assert (tmp_path / "peers.png").stat().st_size > 10_000
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(SystemExit):
        main([str(tmp_path / "other.json"), str(tmp_path / "peers.png")])
    assert "other.json is no results.json of benchmark=compare_methods" in capsys.readouterr().err


def test_the_notes_name_the_kinds_that_retention_leaves_out(result):
    assert not any("leaves out" in line for line in table.notes(result))
    blind = {**result, "unpruned": {"existence": 1.0, "counting": 0.0, "mean": 0.5}}
    assert any(line.startswith("Retention leaves out counting,") for line in table.notes(blind))
