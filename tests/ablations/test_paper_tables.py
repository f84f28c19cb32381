"""Tables for a paper: their structure, their escapes, and that LaTeX takes them where it is installed."""

import csv
import io
import re
import shutil
import subprocess
from dataclasses import replace

import pandas as pd
import pytest
from rich.console import Console
from scipy import stats

from alexnet_ablations.cli.tables import print_conclusions, terminal_table
from alexnet_ablations.conclude.conclusions import conclusions_of
from alexnet_ablations.conclude.outcomes import OUTCOMES
from alexnet_ablations.conclude.paper_tables import escape_latex, latex, markdown, paper_tables, write_tables
from alexnet_ablations.declare.contrasts import Contrast

LEVELS = ("lrn", "bn", "lrn:k=1,alpha=1e-4", "50%_{\\of}|$#&~^")
POINTS = {"lrn": [90, 91, 92], "bn": [93, 94.1, 95.2], LEVELS[2]: [90.5, None, 91], LEVELS[3]: [None, None, None]}


def study():
    rows = [
        {
            "cell": f"norm={level}",
            "norm": level,
            "act": None,
            "seed": seed,
            "state": "ok" if points else "diverged",
            "why": "",
            "level": 0.81,
            "never_reached": 0.0,
            **{outcome.name: float("nan") for outcome in OUTCOMES},
            "test_accuracy": points / 100 if points else float("nan"),
            "images_per_second": 100.0 * (1 + seed) * (1 + (level == "bn")) + seed if points else float("nan"),
        }
        for level, all_points in POINTS.items()
        for seed, points in enumerate(all_points)
    ]
    results = pd.DataFrame(rows)
    contrasts = [
        Contrast(f"norm: lrn → {level}", "effect", {f"norm={level}": 1.0, "norm=lrn": -1.0}, ("norm",))
        for level in LEVELS[1:]
    ]
    return results, conclusions_of(results, contrasts)


def test_cells_have_means_spreads_counts_and_survival():
    cells = paper_tables(*study())[0]
    assert cells.header[:5] == ("norm", "act", "test accuracy", "sd over seeds", "n")
    by_level = {row[0]: dict(zip(cells.header, row, strict=True)) for row in cells.rows}
    assert by_level["lrn"]["test accuracy"] == "91.0%"
    assert by_level["lrn"]["sd over seeds"] == "1.0"
    assert by_level["lrn"]["each seed"] == "90.0 91.0 92.0"
    assert by_level[LEVELS[2]]["n"] == "2"
    assert by_level[LEVELS[2]]["ended well"] == "2/3"
    assert by_level[LEVELS[2]]["95% interval of that share"] == "9% to 99%"
    assert by_level[LEVELS[3]]["test accuracy"] == by_level[LEVELS[3]]["sd over seeds"] == "-"
    assert by_level[LEVELS[3]]["ended well"] == "0/3"
    assert by_level["lrn"]["act"] == "-"  # a factor that this cell does not vary


def test_where_every_run_ended_well_the_share_needs_no_interval():
    results, _ = study()
    whole = results[results["norm"].isin(["lrn", "bn"])]
    cells = paper_tables(whole, conclusions_of(whole, []))
    assert not any("share" in title for title in cells[0].header)


def test_each_p_value_of_an_effect_says_its_test_and_what_holm_adjusts_stands_before_it():
    effects = paper_tables(*study())[1]
    assert effects.header == (
        "change",
        "effect, points",
        "95% interval",
        "n pairs",
        "p, t test",
        "p, t test, Holm",
        "equivalence interval",
        "p, within 0.5 points, Holm",
        "p, sign flip",
        "verdict",
    )
    change, effect, between, n, p, holm, narrow, _, flip, verdict = effects.rows[0]
    assert (change, effect, between) == ("norm: lrn → bn", "+3.1", "[+2.9, +3.3]")
    assert (n, flip, verdict) == ("3", "0.25", "difference")
    oracle = stats.ttest_1samp([3, 3.1, 3.2], 0)
    assert float(p) == pytest.approx(oracle.pvalue, rel=0.05)
    assert float(holm) == pytest.approx(3 * oracle.pvalue, rel=0.05)  # one of three comparisons, the smallest p
    assert narrow == "[{:+.1f}, {:+.1f}]".format(*oracle.confidence_interval(1 - 2 * 0.05 * 2 / 3))
    assert effects.rows[2][1:] == ("-", "-", "0", "-", "-", "-", "-", "-", "no pair")
    assert "cannot go below 0.25" in effects.caption


def test_other_outcomes_have_their_tables_and_are_called_exploratory():
    names = [table.name for table in paper_tables(*study())]
    assert names == ["cells", "effects", "other-means", "other-effects"]
    means, effects = paper_tables(*study())[2:]
    assert means.rows[0][:2] == ("images per second", "182 (3)")  # the geometric mean of 100, 201 and 302
    assert effects.title.endswith("(exploratory)")
    assert effects.rows[0][2] == "×2"  # of 2, 1.995 and 1.993


def test_many_cells_go_down_and_outcomes_across():
    results, _ = study()
    copies = [results.assign(cell=results["cell"] + f",x={at}") for at in range(3)]
    many = pd.concat(copies, ignore_index=True)
    one = Contrast("norm: lrn → bn", "effect", {"norm=bn,x=0": 1.0, "norm=lrn,x=0": -1.0}, ("norm",))
    means = paper_tables(many, conclusions_of(many, [one]))[-2]
    assert means.header == ("cell", "images per second")
    assert means.rows[0] == ("norm=lrn,x=0", "182 (3)")
    assert len(means.rows) == 12


def test_every_row_of_every_table_has_as_many_cells_as_the_header():
    for table in paper_tables(*study()):
        assert {len(row) for row in table.rows} == {len(table.header)}


def test_markdown_rows_have_one_cell_per_column_whatever_a_level_is_called():
    text = markdown(paper_tables(*study()))
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(counts) == 1, block
    assert text.count("\n## ") + text.startswith("## ") == 4
    assert "\\|$#&" in text


def test_latex_has_booktabs_and_no_naked_special_character():
    text = latex(paper_tables(*study()))
    for word in ("\\toprule", "\\midrule", "\\bottomrule", "\\caption", "\\label{tab:effects}"):
        assert word in text
    rows = [line for line in text.splitlines() if line.endswith("\\\\")]
    assert rows
    for row in rows:
        body = row.removesuffix(" \\\\")
        assert len(re.findall(r"(?<!\\)&", body)) in (7, 8, 9, 4)
        assert not re.search(r"(?<!\\)[%#_]|[→×~^−](?!\{\})", body.replace("$-$", "")), row
        assert not body.strip().startswith("[")


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("50%_&#", r"50\%\_\&\#"),
        ("a\\b", r"a\textbackslash{}b"),
        ("{$}", r"\{\$\}"),
        ("~^", r"\textasciitilde{}\textasciicircum{}"),
        ("lrn → bn × 2", r"lrn $\to$ bn $\times$ 2"),
    ],
)
def test_text_is_escaped_so_that_latex_prints_it_as_it_stands(text, escaped):
    assert escape_latex(text) == escaped


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not installed")
def test_latex_compiles(tmp_path):
    preamble = "\\documentclass{article}\\usepackage{booktabs,graphicx}\\begin{document}\n"
    (tmp_path / "t.tex").write_text(preamble + latex(paper_tables(*study())) + "\\end{document}\n")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"],  # noqa: S607  # wherever it is installed
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]


def test_three_files_are_written_and_the_rows_are_all_there(tmp_path):
    results, conclusions = study()
    paths = write_tables(results, conclusions, tmp_path / "report")
    assert [path.name for path in paths] == ["tables.md", "tables.tex", "results.csv"]
    with paths[2].open() as file:
        assert len(list(csv.DictReader(file))) == len(results)
    assert "norm: lrn → bn" in paths[0].read_text()


def test_the_terminal_says_the_sentences_then_the_tables_with_brackets_as_they_are():
    console = Console(width=160, record=True, file=io.StringIO())
    print_conclusions(console, *study())
    text = console.export_text()
    first = text.splitlines()[0]
    assert first == "norm lrn → bn: +3.1 points [+2.9, +3.3] on these test images, n=3 pairs"
    assert text.index("sd over seeds") > text.index(first)
    assert "[+2.9, +3.3]" in text[text.index("sd over seeds") :]
    assert "3 diverged" in text
    assert "cannot go below p = 0.25" in text
    assert "(exploratory)" in text


def test_a_narrow_terminal_goes_without_columns_and_cuts_none_of_the_others():
    console = Console(width=80, record=True, file=io.StringIO())
    print_conclusions(console, *study())
    text = console.export_text()
    assert "…" not in text
    assert "p, sign flip" not in text
    header = next(line for line in text.splitlines() if line.startswith("  change"))
    assert "95% interval" in header
    row = next(line for line in text.splitlines() if line.startswith("  norm: lrn → bn"))
    assert "[+2.9, +3.3]" in row


def test_markup_in_a_level_is_printed_and_not_obeyed():
    results, _ = study()
    odd = results.assign(norm=results["norm"].replace("bn", "[red]bn[/red]"))
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(terminal_table(paper_tables(odd, conclusions_of(odd, []))[0], console))
    assert "[red]bn[/red]" in console.export_text()


def test_the_latex_leaves_out_what_has_no_pair_and_what_depends_on_the_machine(tmp_path):
    results, conclusions = study()
    results = results.assign(final_train_loss=[0.5, 0.25, 0.1, 2e-5, 3e-5, 4e-5, *[float("nan")] * 6])
    conclusions = conclusions_of(results, [item.contrast for item in conclusions.headline])
    tables, tex, _ = (path.read_text() for path in write_tables(results, conclusions, tmp_path))
    unpaired = [item for item in conclusions.headline if not item.n]
    assert len(unpaired) == 1
    assert "images per second" in tables
    assert "images per second" not in tex
    assert tables.count("no pair") > tex.count("no pair") == 0
    assert "final training loss" in tex
    assert r"2.88$\cdot10^{-5}$ (3)" in tex  # the geometric mean of 2, 3 and 4e-5


def test_long_tables_are_broken_into_floats_that_fit_a_page():
    _, effects = paper_tables(*study())[:2]
    many = replace(effects, rows=effects.rows[:1] * 90)
    text = latex([many])
    floats = text.split("\\end{table}")[:-1]
    assert [part.count("norm: lrn") for part in floats] == [40, 40, 10]
    assert len(set(re.findall(r"\\label\{([^}]+)\}", text))) == 3


def test_no_caption_has_two_spaces_and_the_averages_of_a_factorial_are_in_it():
    results, _ = study()
    contrast = Contrast(
        "norm: lrn → bn", "effect", {"norm=bn": 1.0, "norm=lrn": -1.0}, ("norm",), over={"act": ("relu", None)}
    )
    for contrasts in ([contrast], [replace(contrast, over={})]):
        captions = [table.caption for table in paper_tables(results, conclusions_of(results, contrasts))]
        assert not [caption for caption in captions if "  " in caption]
    effects, others = (
        table.caption for table in paper_tables(results, conclusions_of(results, [contrast])) if "effects" in table.name
    )
    assert "norm over act (relu, published)" in effects
    assert "norm over act (relu, published)" in others


def test_the_terminal_says_what_a_factorial_averages_over():
    results, _ = study()
    contrast = Contrast(
        "norm: lrn → bn", "effect", {"norm=bn": 1.0, "norm=lrn": -1.0}, ("norm",), over={"act": ("relu", "leaky")}
    )
    console = Console(width=200, record=True, file=io.StringIO())
    print_conclusions(console, results, conclusions_of(results, [contrast]))
    assert "Effects are averaged over the levels of the other factors: norm over act (relu, leaky)." in (
        console.export_text()
    )
