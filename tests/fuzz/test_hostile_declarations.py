"""Recipe and study files, changed at random: read as what they say, or refused in one sentence that names them."""

import tomllib

import pytest
from hostile import NASTY, Told, changed, fuzzed, told_by, watched
from hypothesis import given
from hypothesis import strategies as st

from alexnet_ablations.declare.declaration import packaged_studies, read_baseline, read_start
from alexnet_ablations.declare.study import declare_study, read_study
from alexnet_ablations.declare.toml import read_toml
from alexnet_lab.training.recipe import Recipe, read_recipe

RECIPE = (
    b'recipe = "laptop"\nnorm = "lrn:k=1"\nepochs = 3\nlearning_rate = 0.02\naugment = "flip,crop"\nten_views = true\n'
)
STUDY = b"""about = "norms"
design = "factorial"
seeds = 2
margin = 0.5
level = 0.3
looks = [1, 2]
[baseline]
norm = "lrn"
[factors]
norm = ["bn", "none"]
dropout = [0.3, 0.5]
[recipe]
epochs = 2
[tune]
learning_rate = "1e-4..1e-1"
points = 4
[chosen]
"norm=lrn,dropout=0.5" = [{learning_rate = 0.01}]
[executor]
name = "local"
"""
WORDS = (
    b"=",
    b"[",
    b"[[",
    b"]",
    b"{",
    b'"""',
    b"'''",
    b"#",
    b"\n",
    b"1e400",
    b"-1",
    b"9" * 30,
    b"9" * 5000,
    b"nan",
    b"inf",
)
WORDS += (
    b"true",
    b"1979-05-27T07:32:00Z",
    b'"\\u001b]0;x\\u0007"',
    b"\xff",
    b"\0",
    b"[" * 3000,
    b"a.b.c = 1\n",
    b"norm = 3\n",
)


@fuzzed
@given(content=changed(RECIPE, tokens=WORDS))
def test_a_changed_recipe_file(tmp_path, content):
    path = tmp_path / "recipe.toml"
    path.write_bytes(content)
    with watched(tmp_path):
        read = told_by(lambda: read_start(str(path)), names=path)
    if not isinstance(read, Told):
        assert isinstance(read_recipe(read), Recipe)


@fuzzed
@given(content=changed(STUDY, tokens=WORDS))
def test_a_changed_study_file(tmp_path, content):
    path = tmp_path / "study.toml"
    path.write_bytes(content)
    with watched(tmp_path):
        study = told_by(lambda: read_study(path, tmp_path / "out"), names=path)
        if not isinstance(study, Told):
            assert len(study.runs()) == study.size
            again = tmp_path / "again.toml"
            again.write_text(study.to_toml(whole=True))
            assert read_study(again, tmp_path / "out") == study


PLACES = ("design", "seeds", "margin", "level", "looks", "about", "baseline", "factors", "recipe", "tune", "chosen")
FIELDS = (
    "norm",
    "act",
    "dropout",
    "epochs",
    "learning_rate",
    "points",
    "once",
    "augment",
    "data",
    "weights",
    "seed",
    "x",
)
VALUES = st.one_of(
    st.sampled_from([value for value in NASTY if value is not None]),
    st.sampled_from(
        ("published", "none", "lrn:k=1e400", "lrn:" * 50, "bn,bn", "a;b;", "1..2", "5..5", "until:0", "../x")
    ),
    st.lists(st.sampled_from((1, 0.5, "bn", True, "")), max_size=3),
)


@fuzzed
@given(data=st.data())
def test_a_study_of_nonsense(tmp_path, data):
    words = tomllib.loads(STUDY.decode())
    words.pop("executor")
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.sampled_from(PLACES))
        if isinstance(words.get(place), dict) and data.draw(st.booleans()):
            words[place][data.draw(st.sampled_from(FIELDS))] = data.draw(VALUES)
        elif place in ("design", "seeds", "about", "looks", "margin", "level"):
            words[place] = data.draw(VALUES)
    path = tmp_path / "study.toml"
    path.write_bytes(as_toml(words))
    with watched(tmp_path):
        told_by(lambda: read_study(path, tmp_path / "out"), names=path)


def as_toml(words):
    """Write tables as TOML by hand, whatever they hold; what TOML cannot say makes the file a wrong one."""
    lines = [f"{name} = {_toml(value)}" for name, value in words.items() if not isinstance(value, dict)]
    for table, values in words.items():
        if isinstance(values, dict):
            lines += [f"[{table}]", *(f"{_toml(name)} = {_toml(value)}" for name, value in values.items())]
    return "\n".join(lines).encode(errors="surrogatepass")


def _toml(value):
    match value:
        case bool():
            return str(value).lower()
        case str():
            escaped = "".join(f"\\u{ord(c):04x}" if ord(c) < 32 or c in '"\\' else c for c in value)
            return f'"{escaped}"'
        case list():
            return f"[{', '.join(map(_toml, value))}]"
        case dict():
            return "{" + ", ".join(f"{_toml(name)} = {_toml(item)}" for name, item in value.items()) + "}"
        case _:
            return str(value)


@fuzzed
@given(text=st.text(alphabet="norm=lrn,act;:.0159-+e²\x1b", max_size=30))
def test_flags_of_nonsense(tmp_path, text):
    with watched(tmp_path):
        told_by(lambda: read_baseline(text))
        told_by(lambda: declare_study({"norm": text}, {}, tmp_path))
        told_by(lambda: declare_study({"norm": "bn"}, {}, tmp_path, tune=text))
        for field in ("augment", "freeze", "schedule", "instruments", "fold", "data"):
            told_by(lambda field=field: read_recipe({field: text}))


@pytest.mark.parametrize("number", ["9" * 400, "-" + "9" * 400, "9" * 5000])
def test_a_number_that_none_can_reckon_with_is_refused_wherever_it_stands(tmp_path, number):
    for text in (f"margin = {number}", f"[tune]\nlearning_rate = [{number}, 1]", f"[recipe]\nepochs = {number}"):
        path = tmp_path / "study.toml"
        path.write_text(text)
        with pytest.raises(ValueError, match=r"study\.toml is not TOML \(.*(more than 300 digits|Exceeds the limit)"):
            read_toml(path)


def test_the_packaged_studies_are_what_the_fuzzed_one_is_like():
    words = set(tomllib.loads(STUDY.decode()))
    assert {word for path in packaged_studies().values() for word in tomllib.loads(path.read_text())} <= words
