"""Recipes: read completely or refused in one line; a written recipe is read as the same one."""

from __future__ import annotations

import sys

import pytest
import tomli_w
from hypothesis import example, given, settings, strategies as st

from facespace.errors import RecipeError
from facespace.training.recipe import Recipe, Term, as_toml, load, parse, shipped

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def refusal(text: str, overrides: tuple[str, ...] = ()) -> str:
    """Return the error for a recipe that is refused, which must be one line."""
    with pytest.raises(RecipeError) as caught:
        parse(text, overrides, source="r.toml")
    said = str(caught.value)
    assert said.isprintable(), said
    return said


# --- shipped ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_recipe(name):
    recipe = load(name)
    assert parse(as_toml(recipe)) == recipe
    assert recipe.data == ""
    assert load(name, ["data=/faces"]).data == "/faces"
    assert 0 < recipe.learning_rate < 1


def test_shipped_recipes_name_existing_networks_and_losses():
    from facespace.backbones.registry import known as networks
    from facespace.training.losses.loss import known as losses

    assert "cpu" in shipped()
    for recipe in map(load, shipped()):
        assert recipe.backbone in networks()
        assert {term.name for term in recipe.losses} <= set(losses())


def test_a_shipped_recipe_lists_what_differs_from_the_defaults():
    text = 'data = "/faces"\nbatch_size = 8\n[[losses]]\nname = "arcface"\nmargin = 0.3\n'
    recipe = parse(text)
    assert (recipe.data, recipe.batch_size, recipe.seed) == ("/faces", 8, Recipe().seed)
    assert [(term.name, term.weight, term.options) for term in recipe.losses] == [("arcface", 1.0, {"margin": 0.3})]
    assert parse("").losses == [Term(name="softmax", weight=1.0)]
    with pytest.raises(ValueError, match="frozen"):
        recipe.batch_size = 9


# --- what is refused --------------------------------------------------------------------------------------------------


def test_an_unknown_key_names_the_closest():
    assert refusal("batchsize = 9") == "r.toml: unknown key 'batchsize', the closest is batch_size"
    assert "unknown key 'learning_rat', the closest is learning_rate" in refusal("seed = -1\nlearning_rat = 1")
    assert "unknown key 'zzzz'; there are data, min_images_per_person, " in refusal("zzzz = 1")
    assert "\n" not in refusal('"batch\\nsize\\u001b" = 1')


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("batch_size = 1", "batch_size: input should be greater than or equal to 2; got 1"),
        ("batch_size = 8.0", "batch_size: input should be a valid integer; got 8.0"),
        ("batch_size = true", "batch_size: input should be a valid integer; got True"),
        ("batch_size = '8'", "batch_size: input should be a valid integer; got '8'"),
        ("rotate = true", "rotate: input should be a valid number; got True"),
        ("ema = 1", "ema: input should be less than 1; got 1"),
        ("learning_rate = 0", "learning_rate: input should be greater than 0; got 0"),
        ("learning_rate = nan", "learning_rate: must be a finite number, got nan"),
        ("weight_decay = inf", "weight_decay: must be a finite number, got inf"),
        ("crop = 'middle'", "crop: input should be 'center' or 'random'; got 'middle'"),
        ("flip = 1", "flip: input should be a valid boolean; got 1"),
        ("data = 5", "data: input should be a valid string; got 5"),
        ("freeze = ['a', 1]", "freeze.1: input should be a valid string; got 1"),
        ("input_spec = 5", "input_spec: input should be a valid string; got 5"),
        ("losses = 3", "losses: input should be a valid list; got 3"),
        ("losses = []", "losses must have at least one term"),
        ("[[losses]]\nweight = 1", "losses.0.name: field required; got {'weight': 1}"),
        ("[[losses]]\nname = 'a'\nweight = '1'", "losses.0.weight: input should be a valid number; got '1'"),
        ("[[losses]]\nname = 'a'\nweight = -1", "losses.0.weight: input should be greater than or equal to 0; got -1"),
        ("[[losses]]\nname = 'a'\nmargin = inf", "losses.0.margin: must be a finite number, got inf"),
        (
            "verify_lfw = '/lfw'",
            "verify_lfw (a folder of photos) and verify_pairs (its pairs.txt) must be given together",
        ),
        (
            "verify_pairs = 'p'",
            "verify_lfw (a folder of photos) and verify_pairs (its pairs.txt) must be given together",
        ),
        ("batch_size = 9\nimages_per_person = 2", "batch_size must be a multiple of images_per_person (2), got 9"),
        ("data = 2018-01-01", "data: must be a text, a number, true or false, or a list or table of these, got date"),
        ("batch_size 9", "not TOML (Expected '=' after a key in a key/value pair (at line 1, column 12))"),
        ("batch_size = 1" + 5000 * "0", "not TOML (Exceeds the limit"),
        ("seed = 0x" + 400 * "f", "seed: a whole number must have at most 64 bits, got 1,600"),
        ("learning_rate = 1" + 400 * "0", "learning_rate: a whole number must have at most 64 bits, got 1,329"),
        ("input_spec." + ".".join(900 * "a") + " = 1", "input_spec.a.a.a: must be a text, a number, "),
    ],
    ids=lambda value: value[:30],
)
def test_errors_name_the_key_the_allowed_and_the_given_value(text, words):
    assert refusal(text).startswith(f"r.toml: {words}")


def test_a_recipe_made_in_python_is_checked_too():
    for values in ({"learning_rate": float("inf")}, {"batch_size": 1}, {"dimensions": 3}, {"losses": []}):
        with pytest.raises(ValueError, match=r"learning_rate|batch_size|dimensions|losses"):
            Recipe(**values)


def test_whole_numbers_are_numbers():
    recipe = parse("learning_rate = 1\n[[losses]]\nname = 'softmax'\nweight = 2")
    assert recipe.learning_rate == 1.0 and type(recipe.learning_rate) is float
    assert recipe.losses[0].weight == 2.0 and type(recipe.losses[0].weight) is float


def test_hostile_recipes():
    """Deep nesting, odd types and odd names in a hostile text are refused in one line."""
    for text in ("[" * 5000, "a=" + "[" * 5000 + "]" * 5000, "\0", "data = '\x07'", "[losses]\nname=1", "losses=[[]]"):
        refusal(text)
    assert "\n" not in refusal('[[losses]]\nname = "a\\nb"', ("q.x=3",))


values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.dates(),
)
keys = st.sampled_from([*Recipe.model_fields, "zzz"])


def written(value: object) -> str:
    """Arbitrary TOML, some of it invalid."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return tomli_w.dumps({"x": value}).removeprefix("x = ").rstrip("\n")
    if isinstance(value, list):
        return f"[{', '.join(map(written, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{written(key)} = {written(entry)}' for key, entry in value.items())}}}"
    return str(value)


@settings(max_examples=80, deadline=None)
@given(
    st.dictionaries(
        keys,
        st.recursive(values, lambda s: st.lists(s, max_size=3) | st.dictionaries(st.text(max_size=4), s)),
        max_size=3,
    ),
    st.lists(st.tuples(keys | st.text(max_size=8), st.text(max_size=8)).map("=".join), max_size=2),
)
@example({"losses": [{"name": "softmax", "": 0}]}, [])
def test_any_toml_is_a_recipe_or_refused(table, overrides):
    text = "\n".join(f"{key} = {written(value)}" for key, value in table.items())
    try:
        recipe = parse(text, overrides)
    except RecipeError as error:
        assert "\n" not in str(error)
    else:
        assert parse(as_toml(recipe)) == recipe


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40), st.text(max_size=20))
def test_any_text_is_a_recipe_or_refused(text, override):
    for overrides in ([], [override]):
        try:
            parse(text, overrides)
        except RecipeError as error:
            assert "\n" not in str(error)


# --- overrides --------------------------------------------------------------------------------------------------------


def test_data_given_several_times_is_all_of_it():
    assert parse("", ["data=a", "batch_size=4", "data=2018"]).data == ["a", "2018"]
    assert parse("", ["data=['a', 'b']", "data=c:d"]).data == ["a", "b", "c:d"]
    assert parse('data = "a"', ["data=b"]).data == "b"
    assert parse("", ["data=a", "data="]).data == ""
    assert parse("", ["data=a", "data=", "data=b"]).data == "b"


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("batch_size=8", "batch_size", 8),
        ("learning_rate=1", "learning_rate", 1.0),
        ("learning_rate = 1e-4", "learning_rate", 1e-4),
        ("optimizer=sgd", "optimizer", "sgd"),
        ("optimizer = sgd", "optimizer", "sgd"),
        ("optimizer='sgd'", "optimizer", "sgd"),
        ("flip=false", "flip", False),
        ("init=20180402", "init", "20180402"),
        ("init=", "init", ""),
        ("data=2018", "data", "2018"),
        ("data=2018-01-01", "data", "2018-01-01"),
        ("data=true", "data", "true"),
        ("data=['/a', '/b']", "data", ["/a", "/b"]),
        ("data=/a b/#1=2/'q\".d", "data", "/a b/#1=2/'q\".d"),
        ("data=C:\\faces\\new", "data", "C:\\faces\\new"),
        ('data="  blanks  "', "data", "  blanks  "),
        ("data=/caf\udce9", "data", "/caf\udce9"),
        ("data=a\nseed = 3", "data", "a\nseed = 3"),
        ("schedule=1: 0.1, 9: -1", "schedule", "1: 0.1, 9: -1"),
        ("input_spec=arcface-112", "input_spec", "arcface-112"),
        ('input_spec={size = 112, template = "arcface"}', "input_spec", {"size": 112, "template": "arcface"}),
        ("freeze=conv2d_*", "freeze", ["conv2d_*"]),
        ("freeze=['a', 'b']", "freeze", ["a", "b"]),
        ("freeze=", "freeze", []),
        ("verify_bin=2018", "verify_bin", ["2018"]),
    ],
)
def test_overrides(override, key, value):
    recipe = parse("batch_size = 6\ninit = 'other'\nfreeze = ['x']", [override])
    assert getattr(recipe, key) == value
    assert len(recipe.differences(parse("batch_size = 6\ninit = 'other'\nfreeze = ['x']"))) == 1
    assert parse(as_toml(recipe)) == recipe


def test_overrides_of_losses():
    text = "[[losses]]\nname = 'softmax'\n[[losses]]\nname = 'center'\nrate = 0.5\n"
    recipe = parse(text, ["center.weight=0.02", "center.rate=1", "softmax.kind=hard one"])
    assert [term.model_dump() for term in recipe.losses] == [
        {"name": "softmax", "weight": 1.0, "kind": "hard one"},
        {"name": "center", "weight": 0.02, "rate": 1},
    ]
    assert parse("", ["softmax.weight=2"]).losses == [Term(name="softmax", weight=2.0)]
    assert Recipe().losses == [Term(name="softmax", weight=1.0)]
    assert parse("", ['losses=[{name="triplet"}]', "triplet.weight=3"]).losses == [Term(name="triplet", weight=3.0)]


def test_later_overrides_win():
    assert parse("batch_size = 6", ["batch_size=7", "batch_size=8"]).batch_size == 8


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("batch_size", "'batch_size': expected key=value, such as learning_rate=0.05"),
        ("=3", "'=3': expected key=value"),
        ("batchsize=3", "r.toml: unknown key 'batchsize', the closest is batch_size"),
        ("batch_size=ten", "r.toml: batch_size: input should be a valid integer; got 'ten'"),
        ("batch_size=3\nseed=4", "r.toml: batch_size: input should be a valid integer; got '3"),
        ("centre.weight=1", "'centre.weight=1': the recipe has no loss 'centre', the closest is center"),
        ("zzz.weight=1", "'zzz.weight=1': the recipe has no loss 'zzz'; there are softmax, center"),
        ("center.weight=-1", "r.toml: losses.1.weight: input should be greater than or equal to 0; got -1"),
    ],
)
def test_overrides_that_are_refused(override, words):
    assert refusal("[[losses]]\nname='softmax'\n[[losses]]\nname='center'", (override,)).startswith(words)


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_file(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_bytes("\ufeffbatch_size = 8\ndata = '/王'\n".encode())
    assert load(file) == parse("batch_size = 8\ndata = '/王'")
    assert load(str(file), ["seed=1"]).seed == 1


def test_a_path_that_is_no_utf8_stays(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_bytes(b"data = '/caf\xe9'\n")
    recipe = load(file)
    assert recipe.data == "/caf\udce9"
    file.write_bytes(as_toml(recipe).encode("utf-8", "surrogateescape"))
    assert load(file) == recipe


def test_files_that_are_no_recipe(tmp_path):
    names = ", ".join(shipped())
    with pytest.raises(RecipeError, match=f"cpuu: neither a recipe file nor a recipe's name \\({names}\\), nor a run"):
        load("cpuu")
    with pytest.raises(RecipeError, match="neither a recipe file"):
        load(tmp_path)
    with pytest.raises(RecipeError, match="neither a recipe file"):
        load("a\0b")
    file = tmp_path / "big.toml"
    file.write_bytes(b"#" * 1_000_001)
    with pytest.raises(RecipeError, match=r"big.toml: must have at most 1,000,000 bytes, got 1,000,001"):
        load(file)
    file.write_bytes(b"")
    with pytest.raises(RecipeError, match=r"big.toml: the file is empty"):
        load(file)
    file.write_bytes(b"\xff\xfe\x00b")
    with pytest.raises(RecipeError, match=r"big.toml: not TOML"):
        load(file)


# --- written and read -------------------------------------------------------------------------------------------------

letters = st.characters(exclude_categories=["Cs"]) | st.sampled_from(
    "\"'\\\n\r\t\0\x7f#={}[]\u2028\ue000\U000e0001\udce9"
)
texts = st.text(letters, max_size=12)
floats = st.floats(allow_nan=False, allow_infinity=False)
whole = st.integers(-(2**63) + 1, 2**63 - 1)
options = st.dictionaries(
    texts.filter(lambda key: key not in ("name", "weight")),
    texts | floats | whole | st.booleans() | st.lists(texts | whole, max_size=2),
    max_size=3,
)
terms = st.builds(
    lambda name, weight, options: {"name": name, "weight": weight, **options},
    texts,
    floats.map(abs),
    options,
)
recipes = st.fixed_dictionaries(
    {"losses": st.lists(terms, min_size=1, max_size=3)},
    optional={
        "data": texts | st.lists(texts, max_size=3),
        "init": texts,
        "backbone": texts,
        "input_spec": texts | options,
        "freeze": st.lists(texts, max_size=3),
        "learning_rate": st.floats(min_value=1e-300, allow_infinity=False),
        "rotate": st.floats(0, 180),
        "crop_size": st.none() | st.integers(16, 4096),
        "seed": st.integers(0, 2**31 - 1),
        "flip": st.booleans(),
        "precision": st.sampled_from(["auto", "bfloat16"]),
    },
)


@settings(max_examples=80, deadline=None)
@given(recipes)
@example({"data": 'a\\u0041"\n\x00\U000e0001\udce9', "losses": [{"name": "a", "weight": 1.0, "b c": 1, "": 2}]})
@example({"learning_rate": 1e22, "losses": [{"name": "a", "weight": 1e-07}]})
def test_what_is_written_is_read_as_the_same(fields):
    recipe = Recipe.model_validate(fields)
    text = as_toml(recipe)
    assert parse(text) == recipe
    assert not recipe.differences(parse(text))
    assert set(tomllib.loads(text)) == set(Recipe.model_fields) - ({"crop_size"} if recipe.crop_size is None else set())


def test_differences_name_key_and_both_values():
    mine, theirs = parse("seed = 1\ncrop_size = 100"), parse("seed = 2\n[[losses]]\nname = 'triplet'")
    assert mine.differences(theirs) == [
        "losses [{'name': 'triplet', 'weight': 1.0}] instead of [{'name': 'softmax', 'weight': 1.0}]",
        "crop_size None instead of 100",
        "seed 2 instead of 1",
    ]
    assert mine.differences(mine) == []
