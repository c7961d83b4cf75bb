"""The check of the promises must itself be able to fail."""

from __future__ import annotations

from tests.promises import broken

PROMISE = {"text": "it works", "tests": ["tests/test_a.py::test_it"]}


def test_a_promise_whose_test_passed_holds() -> None:
    assert broken(PROMISE, {"tests/test_a.py::test_it": {"passed"}}, strict=True) == []


def test_a_promise_whose_test_did_not_run_is_broken() -> None:
    assert broken(PROMISE, {}, strict=False) == ["tests/test_a.py::test_it did not run"]


def test_one_failed_parameter_breaks_it() -> None:
    assert broken(PROMISE, {"tests/test_a.py::test_it": {"passed", "failed"}}, strict=False)


def test_a_skipped_test_breaks_it_under_ci_only() -> None:
    outcomes = {"tests/test_a.py::test_it": {"skipped"}}
    assert broken(PROMISE, outcomes, strict=False) == []
    assert broken(PROMISE, outcomes, strict=True)


def test_a_promise_without_tests_is_broken() -> None:
    assert broken({"text": "hope"}, {}, strict=False) == ["names no test"]


def test_a_slow_promise_needs_a_dated_page() -> None:
    assert broken({"text": "x", "page": "docs/reference/nowhere.md"}, {}, strict=False)


def test_what_another_run_proves_must_at_least_be_there() -> None:
    ours = "tests/test_promises.py::test_what_another_run_proves_must_at_least_be_there"
    assert broken({"text": "x", "stage": "make test-layout", "tests": [ours]}, {}, strict=True) == []
    assert broken({"text": "x", "stage": "make test-layout", "tests": [ours + "_not"]}, {}, strict=True)
    assert broken({"text": "x", "stage": "make test-layout", "tests": [ours]}, {ours: {"failed"}}, strict=True)
