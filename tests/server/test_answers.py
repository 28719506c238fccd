from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from facespace.server import answers as answers_module
from facespace.server.answers import GONE, KEPT_SECONDS, MAX_ANSWER, Answer, Answers
from facespace.server.problems import Problem
from facespace.server.state import State

DONE = Answer(201, {"etag": "1"}, b"{}")


@pytest.fixture
def state(tmp_path: Path):
    opened = State(tmp_path / "state")
    yield opened
    opened.close()


@pytest.fixture
def answers(state: State) -> Answers:
    return Answers(state)


def begin(
    answers: Answers, *, caller: str = "ada", key: str = "k", request: str = "r", owner: str = "1"
) -> Answer | None:
    return answers.begin(caller, key, request, "default", owner)


def test_the_first_answer_is_given_again(answers: Answers):
    assert begin(answers) is None
    answers.finish("1", DONE)
    assert begin(answers, owner="2") == DONE
    assert begin(answers, owner="3") == DONE


def test_a_key_belongs_to_its_caller(answers: Answers):
    begin(answers)
    answers.finish("1", DONE)
    assert begin(answers, caller="ben", owner="2") is None


def test_another_request_with_the_key_is_refused(answers: Answers):
    begin(answers)
    for _ in range(2):  # while it runs, and after it ended
        with pytest.raises(Problem) as caught:
            begin(answers, request="other", owner="2")
        assert (caught.value.status, caught.value.code) == (422, "idempotency_key_reused")
        answers.finish("1", DONE)


def test_a_request_that_runs_is_not_begun_again(answers: Answers):
    begin(answers)
    with pytest.raises(Problem) as caught:
        begin(answers, owner="2")
    assert (caught.value.status, caught.value.code) == (409, "in_progress")
    assert 1 <= int((caught.value.headers or {})["Retry-After"]) <= 15


def test_a_lease_that_ended_is_taken_over_and_a_renewed_one_is_not(state: State):
    answers = Answers(state, lease_seconds=0.05)
    begin(answers)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            begin(answers, owner="2")
            break
        except Problem:
            time.sleep(0.01)
    longer = Answers(state)
    longer.renew("2")
    with pytest.raises(Problem):
        begin(answers, owner="3")
    answers.finish("1", Answer(200, {}, b"of the worker that seemed dead"))
    with pytest.raises(Problem):
        begin(answers, owner="3")
    answers.finish("2", DONE)
    assert begin(answers, owner="3") == DONE


def test_a_released_request_may_be_sent_again_at_once(answers: Answers):
    begin(answers)
    answers.release("1")
    assert begin(answers, request="other", owner="2") is None


def test_of_several_workers_one_carries_out_a_request(state: State):
    workers = [Answers(State(state.folder)) for _ in range(4)]
    barrier, begun = threading.Barrier(4), []

    def work(k: int) -> None:
        barrier.wait()
        try:
            begun.append(begin(workers[k], owner=str(k)))
        except Problem as problem:
            begun.append(problem.code)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(begun, key=str) == [None, "in_progress", "in_progress", "in_progress"]
    for one in workers:
        one._state.close()


def test_answers_are_forgotten_after_a_day(answers: Answers, monkeypatch: pytest.MonkeyPatch):
    begin(answers)
    answers.finish("1", DONE)
    now = time.time()
    monkeypatch.setattr(answers_module.time, "time", lambda: now + KEPT_SECONDS - 1)
    assert begin(answers, owner="2") == DONE
    monkeypatch.setattr(answers_module.time, "time", lambda: now + KEPT_SECONDS + 1)
    assert begin(answers, owner="2") is None


def test_the_oldest_answers_of_a_caller_go_first(answers: Answers, state: State, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(answers_module, "MAX_ANSWERS", 3)
    begin(answers, caller="ben", key="first", owner="ben")
    for k in range(6):
        begin(answers, key=f"k{k}", owner=str(k))
        answers.finish(str(k), DONE)
    assert [row[0] for row in state.rows("SELECT key FROM answer ORDER BY at")] == ["first", "k3", "k4", "k5"]


def test_a_large_answer_is_only_recorded_as_given(answers: Answers):
    begin(answers)
    answers.finish("1", Answer(200, {}, b"a" * (MAX_ANSWER + 1)))
    assert begin(answers, owner="2") == Answer(GONE, {}, b"")


def test_erased_answers_are_gone_from_the_disk(answers: Answers, state: State):
    begin(answers)
    answers.finish("1", Answer(201, {}, b'{"name": "Ada Lovelace"}'))
    answers.begin("ada", "k2", "r", "staff", "2")
    answers.finish("2", DONE)
    answers.erase("default")
    assert begin(answers, owner="3") == Answer(GONE, {}, b"")
    assert answers.begin("ada", "k2", "r", "staff", "3") == DONE
    assert not [path for path in state.folder.iterdir() if b"Ada Lovelace" in path.read_bytes()]
