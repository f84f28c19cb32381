"""The items of CLAIM that a report of a medical study answers, and the lab's answer to each that it knows.

CLAIM: J. Mongan, L. Moy, C. E. Kahn, Radiology: Artificial Intelligence 2 (2020), e200029; 42 items. What only a person
knows is NOT FILLED.
"""

from collections.abc import Sequence
from dataclasses import dataclass

NOT_FILLED = "NOT FILLED"


@dataclass(frozen=True)
class Item:
    """One item: its number, its section, and what it asks for in our words."""

    number: int
    section: str
    asks: str


ITEMS: Sequence[Item] = (
    Item(1, "Title and abstract", "title that names the kind of method"),
    Item(2, "Title and abstract", "structured summary"),
    Item(3, "Introduction", "background: the clinical role of the method"),
    Item(4, "Introduction", "objectives and hypotheses"),
    Item(5, "Study design", "prospective or retrospective"),
    Item(6, "Study design", "goal of the study"),
    Item(7, "Data", "sources"),
    Item(8, "Data", "who was eligible, where and when"),
    Item(9, "Data", "preprocessing"),
    Item(10, "Data", "how subsets were selected"),
    Item(11, "Data", "definitions of data elements"),
    Item(12, "Data", "de-identification"),
    Item(13, "Data", "how missing data were handled"),
    Item(14, "Ground truth", "definition of the reference standard"),
    Item(15, "Ground truth", "why this reference standard"),
    Item(16, "Ground truth", "who annotated, with what qualification"),
    Item(17, "Ground truth", "tools of annotation"),
    Item(18, "Ground truth", "variability within and between annotators"),
    Item(19, "Data partitions", "intended sample size, and how it was chosen"),
    Item(20, "Data partitions", "how images were assigned to the parts"),
    Item(21, "Data partitions", "level at which the parts are disjoint"),
    Item(22, "Model", "the network, its inputs, outputs and layers"),
    Item(23, "Model", "software, libraries, versions"),
    Item(24, "Model", "initial values of the parameters"),
    Item(25, "Training", "details of training, augmentation included"),
    Item(26, "Training", "how the final model was selected"),
    Item(27, "Training", "ensembling"),
    Item(28, "Evaluation", "metrics of performance"),
    Item(29, "Evaluation", "measures of uncertainty"),
    Item(30, "Evaluation", "robustness and sensitivity analysis"),
    Item(31, "Evaluation", "explanation of predictions, and its validation"),
    Item(32, "Evaluation", "testing on external data"),
    Item(33, "Results: data", "flow of participants or cases"),
    Item(34, "Results: data", "demographic and clinical characteristics of each part"),
    Item(35, "Results: performance", "performance on each part of the data"),
    Item(36, "Results: performance", "diagnostic accuracy and its precision"),
    Item(37, "Results: performance", "failure analysis"),
    Item(38, "Discussion", "limitations, bias, generalisability"),
    Item(39, "Discussion", "implications for practice"),
    Item(40, "Other information", "registration number"),
    Item(41, "Other information", "where the protocol can be had"),
    Item(42, "Other information", "funding"),
)
