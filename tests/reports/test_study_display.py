"""What a notebook shows of a study: its answer and the figures of its report, or what it will make."""

import re

from planted_studies import figures_of
from test_display import NASTY, assert_harmless

from alexnet_ablations import declare_study


def test_a_study_shows_the_lead_of_its_report_and_its_first_figures(study, page):
    html = study._repr_html_()
    elements = assert_harmless(html)
    assert page.lead in elements.text
    titles = re.findall(r"<b>([^<]*)</b><br>", html)
    assert titles == [figure.title.replace("'", "&#x27;") for figure in list(figures_of(page).values())[: len(titles)]]
    assert "Every seed" in titles
    assert "<table>" in html


def test_a_study_that_has_no_run_shows_what_it_will_make(tmp_path):
    study = declare_study({"norm": "bn"}, {"data": NASTY}, tmp_path / NASTY.replace("/", ""), seeds=2, about=NASTY)
    elements = assert_harmless(study._repr_html_())
    assert "2 cells, 2 seeds each: 4 runs, none of which has ended." in elements.text
    assert "lrn, bn" in elements.text
