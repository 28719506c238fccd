"""The folder of a run: started, resumed, refused, and listed by `facespace runs`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings, strategies as st

from facespace._version import __version__
from facespace.errors import RecipeError, TrainingError
from facespace.io.files import TEMPORARY
from facespace.models.folder import BEST, CHECKPOINTS, METRICS, MODEL, RECIPE, RUN, is_run
from facespace.training import run_folder as module
from facespace.training.recipe import parse
from facespace.training.run_folder import (
    begin,
    read_facts,
    read_metrics,
    read_recipe,
    rewind_metrics,
    runs_below,
    summary,
)

USUAL = parse("data = '/faces'")
DATASET = {"fingerprint": "abc", "n_images": 90, "n_people": 7}
FACTS = {"dataset": DATASET, "input_spec": {"size": 160}}


_revision = module._revision


@pytest.fixture(autouse=True)
def revision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the git process at the start of each run."""
    monkeypatch.setattr(module, "_revision", lambda: "0123abc")


@pytest.fixture(scope="module")
def one_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    begin(folder, USUAL, FACTS)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    begin(tmp_path / "runs" / "one", USUAL, FACTS)
    return tmp_path / "runs" / "one"


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


# --- started ------------------------------------------------------------------------------------------------------------


def test_a_new_run(tmp_path):
    run = tmp_path / "runs" / "one"
    assert not is_run(run)
    assert begin(run, USUAL, FACTS) == []
    assert is_run(run)
    assert sorted(files(run)) == [RECIPE, RUN]
    assert read_recipe(run) == USUAL
    facts = read_facts(run)
    assert facts["dataset"] == DATASET and facts["input_spec"] == {"size": 160}
    assert (facts["facespace"], facts["torch"], facts["threads"]) == (
        __version__,
        torch.__version__,
        torch.get_num_threads(),
    )
    assert {"python", "numpy", "platform", "cpus", "gpus", "command"} <= set(facts) and facts["git"] == "0123abc"


def test_a_folder_that_a_killed_process_moved_aside_comes_back(run: Path) -> None:
    """The model and the last checkpoint replace older ones; the process was killed between two renames."""
    for folder, name in ((run, MODEL), (run / CHECKPOINTS, "step-00000010")):
        (folder / f"{TEMPORARY}old-{name}").mkdir(parents=True)
        (folder / f"{TEMPORARY}old-{name}" / "weights").write_text("the only copy")
    begin(run, USUAL, FACTS)
    assert (run / MODEL / "weights").read_text() == "the only copy"
    assert (run / CHECKPOINTS / "step-00000010" / "weights").read_text() == "the only copy"
    assert not list(run.rglob(f"{TEMPORARY}*"))


def test_an_empty_folder_will_do(tmp_path):
    assert begin(tmp_path, USUAL, FACTS) == [] and is_run(tmp_path)


def test_a_run_that_was_killed_while_it_began(tmp_path):
    """The recipe is written last, so files without it are leftovers that may be overwritten."""
    (tmp_path / RUN).write_text("{")
    (tmp_path / f"{TEMPORARY}0123.toml").write_text("")
    assert begin(tmp_path, USUAL, FACTS) == []
    assert read_facts(tmp_path)["dataset"] == DATASET


@pytest.mark.parametrize("kind", ["a file in it", "a folder in it", "a file itself", "a link to nowhere"])
def test_a_place_that_is_taken(tmp_path, kind):
    run = tmp_path / "run"
    if kind == "a file itself":
        run.write_text("mine")
    elif kind == "a link to nowhere":
        run.symlink_to(tmp_path / "nowhere")
    elif kind == "a file in it":
        run.mkdir()
        (run / "mine").write_text("")
    else:
        (run / "mine").mkdir(parents=True)
    with pytest.raises(RecipeError, match="run: exists and is not a training run; give another --output"):
        begin(run, USUAL, FACTS)
    assert not is_run(run)


def test_a_path_that_is_no_utf8_is_kept(tmp_path):
    recipe = parse("", ["data=/caf\udce9"])
    begin(tmp_path, recipe, FACTS)
    assert b'data = "/caf\xe9"' in (tmp_path / RECIPE).read_bytes()
    assert read_recipe(tmp_path) == recipe
    assert begin(tmp_path, recipe, FACTS) == []


def test_the_revision_of_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert _revision() is None
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    (tmp_path / "a").write_text("1")
    for words in (["init", "-q"], ["add", "a"], ["commit", "-q", "-m", "a"], ["tag", "-a", "v1", "-m", "v1"]):
        subprocess.run([*git, *words], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert _revision() == commit
    (tmp_path / "a").write_text("2")
    assert _revision() == f"{commit}-dirty"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert _revision() is None


# --- resumed -----------------------------------------------------------------------------------------------------


def test_the_same_recipe_resumes(run):
    before = files(run)
    assert begin(run, USUAL, FACTS) == []
    assert files(run) == before


def test_allowed_changes_are_reported_and_saved(run):
    began = (run / RUN).read_bytes()
    longer = parse("data = '/faces'\nn_epochs = 90\nworkers = 0\ndevice = 'cpu'")
    assert begin(run, longer, FACTS) == [
        "changed for the rest of the run: n_epochs 90 instead of 80",
        "changed for the rest of the run: workers 0 instead of 2",
        "changed for the rest of the run: device 'cpu' instead of 'auto'",
    ]
    assert read_recipe(run) == longer
    assert (run / RUN).read_bytes() == began
    assert begin(run, longer, FACTS) == []


@pytest.mark.parametrize(
    "change", ["batch_size=30", "seed=1", "data=/others", "softmax.weight=2", "keep_probability=0.5"]
)
def test_other_changes_are_refused(run, change):
    before = files(run)
    with pytest.raises(RecipeError, match=r"one: is a run of another recipe \((\w+) .* instead of .*\); give another"):
        begin(run, parse("data = '/faces'", [change, "n_epochs=90"]), FACTS)
    assert files(run) == before


def test_an_edited_dataset(run):
    edited = {"dataset": {"fingerprint": "abd", "n_images": 91, "n_people": 8}}
    before = files(run)
    with pytest.raises(TrainingError) as caught:
        begin(run, USUAL, edited)
    assert str(caught.value) == (
        f"{run}: its dataset had 90 images of 7 people when it began, and was edited since (now 91 of 8); "
        "restore it, or start a new run with another --output"
    )
    assert files(run) == before
    for name in (BEST, MODEL):  # the model that a new run can start from
        (run / name).mkdir()
        with pytest.raises(TrainingError, match=f"or start a new run with init={run / name} and another --output$"):
            begin(run, USUAL, edited)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", "null", '{"dataset": 5}', "\xff", "[" * 100_000, '{"dataset": ' + "9" * 5000 + "}"]
)
def test_a_damaged_run_json(run, text):
    (run / RUN).write_bytes(text.encode("latin-1"))
    with pytest.raises(TrainingError, match=r"run.json: damaged, so the dataset cannot be compared"):
        begin(run, USUAL, FACTS)
    assert "dataset" not in read_facts(run) or read_facts(run)["dataset"] == 5


def test_facts_that_are_too_long_or_missing(run, monkeypatch):
    assert read_facts(run / "nowhere") == {}
    monkeypatch.setattr(module, "_MAX_JSON", 10)
    assert read_facts(run) == {}


def test_a_damaged_recipe(run):
    (run / RECIPE).write_bytes(b"batch_size = \xff")
    with pytest.raises(RecipeError, match=r"one/recipe.toml: not TOML"):
        begin(run, USUAL, FACTS)


# --- metrics ----------------------------------------------------------------------------------------------------------


def row(step: int, loss: float = 1.0) -> dict:
    return {"step": step, "epoch": 1, "total_loss": loss, "images_per_second": 10.0 * step}


def measured(step: int, **accuracy: float) -> dict:
    return {"step": step, "verification": {name: {"accuracy": value} for name, value in accuracy.items()}}


def write(run: Path, *rows: object, end: bytes = b"") -> None:
    (run / METRICS).write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in rows) + end)


def test_incomplete_lines_are_skipped(run):
    assert read_metrics(run) == []
    write(run, row(1), row(2), end=b'{"step": 3, "total_lo')
    assert read_metrics(run) == [row(1), row(2)]
    write(run, row(1), 5, [1], {"step": "2"}, {"step": True}, {}, row(3), end=b"\xff\xfe\n\n" + b"[" * 100_000 + b"\n")
    assert read_metrics(run) == [row(1), row(3)]


def test_lines_after_the_checkpoint_are_dropped(run):
    rewind_metrics(run, 2)
    assert not (run / METRICS).exists()
    write(run, row(1), row(2, 0.1 + 0.2), measured(2, lfw=0.9), row(3), row(4), end=b'{"step": 5')
    rewind_metrics(run, 2)
    assert (run / METRICS).read_text().splitlines() == [
        json.dumps(kept) for kept in (row(1), row(2, 0.1 + 0.2), measured(2, lfw=0.9))
    ]
    rewind_metrics(run, 0)
    assert (run / METRICS).read_bytes() == b""
    assert sorted(files(run)) == [METRICS, RECIPE, RUN]


# --- comparison of runs -----------------------------------------------------------------------------------------------------


def test_a_run_in_a_few_words(run):
    empty = {
        "run": str(run),
        "network": "inception-resnet-v1",
        "losses": "softmax",
        "state": "begun",
        "step": 0,
        "loss": None,
        "images_per_second": None,
        "accuracy": {},
    }
    assert summary(run) == empty
    write(run, row(1, 5.0), row(2, 4.0), measured(2, lfw=0.9, cfp=0.7), row(3, 3.0), measured(3, lfw=0.8, cfp=0.75))
    (run / MODEL).mkdir()
    assert summary(run) == {
        **empty,
        "state": "finished",
        "step": 3,
        "loss": 3.0,
        "images_per_second": 30.0,
        "accuracy": {"lfw": 0.9, "cfp": 0.75},
    }


def test_a_run_that_began_with_a_model(tmp_path):
    begin(tmp_path, parse("init = 'a/b'\n[[losses]]\nname = 'arcface'\n[[losses]]\nname = 'center'"), FACTS)
    found = summary(tmp_path)
    assert (found["network"], found["losses"]) == ("from a/b", "arcface+center")


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"step": st.integers(0, 9)},
            optional={
                key: st.none() | st.text(max_size=2) | st.floats() | st.lists(st.none(), max_size=1)
                for key in ("total_loss", "images_per_second", "verification")
            }
            | {
                "verification": st.dictionaries(
                    st.text(max_size=3), st.none() | st.just({}) | st.just({"accuracy": "a"})
                )
            },
        ),
        max_size=4,
    )
)
def test_invalid_figures_are_left_out(one_run, rows):
    write(one_run, *rows)
    found = summary(one_run)
    assert found["accuracy"] == {}
    assert all(found[key] is None or isinstance(found[key], float) for key in ("loss", "images_per_second"))


def test_runs_below_a_folder(tmp_path):
    for name in ("b", "a/2", "a/1", "a/1/inner"):
        if name == "a/1/inner":
            (tmp_path / name).mkdir()
            (tmp_path / name / RECIPE).write_text("")
            (tmp_path / name / RUN).write_text("")
        else:
            begin(tmp_path / name, USUAL, FACTS)
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / RECIPE).write_text("")
    assert list(runs_below(tmp_path)) == [tmp_path / "a/1", tmp_path / "a/2", tmp_path / "b"]
    assert list(runs_below(tmp_path / "b")) == [tmp_path / "b"]
    assert list(runs_below(tmp_path / "nowhere")) == []


def test_the_command_runs(cli, run, monkeypatch):
    begin(run.parent / "two", parse("data = '/faces'", ["init=a\nb"]), FACTS)
    write(run, row(1, 5.0), row(20, 0.12345), measured(20, lfw=0.91239))
    write(run.parent / "two", row(3, 7.0), measured(3, cfp=0.5))
    (run / MODEL).mkdir()
    monkeypatch.chdir(run.parents[1])
    done = cli("runs")
    assert done.code == 0 and done.err == ""
    assert done.lines == [
        "run       network              losses   state     steps  loss    images/s  cfp     lfw",
        "runs/one  inception-resnet-v1  softmax  finished  20     0.1235  200       -       0.9124",
        "runs/two  from a\\nb            softmax  begun     3      7.0000  30        0.5000  -",
    ]
    rows = cli("runs", "runs", "--json").json
    assert rows == [summary(Path("runs/one")), summary(Path("runs/two"))]
    assert cli("runs", run).lines[1].startswith(str(run))


def test_the_command_runs_without_any(cli, tmp_path):
    for words in ((), ("--json",)):
        done = cli("runs", tmp_path / "none", *words)
        assert done.code == 1 and done.out == ""
        assert done.errors == [
            f"facespace: {tmp_path}/none: contains no training runs; start one with facespace train --output {tmp_path}/none/NAME"
        ]


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_one_damaged_run_hides_no_other(cli, run, words):
    begin(run.parent / "two", USUAL, FACTS)
    (run / RECIPE).write_text("seed = 'x'")
    done = cli("runs", run.parent, *words)
    assert done.code == 1
    assert done.errors == [
        f"facespace: {run}: recipe.toml: seed: input should be a valid integer; got 'x'",
    ]
    assert str(run.parent / "two") in done.lines[-1]
    (run.parent / "two" / RECIPE).write_text("seed = 'x'")
    done = cli("runs", run.parent, *words)
    assert done.code == 1 and done.out == "" and len(done.errors) == 2
