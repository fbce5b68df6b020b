"""Grading: equal answers, wrong answers and the time limit."""

from __future__ import annotations

import os
import threading
import time

import pytest

from langgraph_arbitrage.errors import MissingExtraError, SettingsError
from langgraph_arbitrage.evaluation import Grader, grade, grading

SAME = [
    (r"\frac{1}{2}", "0.5"),
    ("1/2", r"\frac12"),
    (r"\dfrac{17}{50}", "0.34"),
    ("0.333333", "1/3"),
    (r"50\%", "50"),
    ("50%", r"50\%"),
    (r"50\%", "0.5"),
    ("50", r"50\%"),
    ("0.5", r"50\%"),
    ("17.5", r"17.5\%"),
    (r"17.5\%", "17.5"),
    ("0.4%", r"0.4\%"),
    ("5 cm", "5"),
    (r"5\text{ cm}", "5"),
    ("6", r"6\text{ minutes}"),
    ("6 min", r"6\text{ minutes}"),
    ("6 mins", r"6 \text{ minutes}"),
    ("166", "$166$"),
    (r"166 \text{ cm}^2", "166"),
    ("12 square feet", r"12\text{ ft}^2"),
    ("$18.90", "18.9"),
    ("18.9", r"\$18.90"),
    ("7 dollars", r"\$7"),
    ("10,080", "10080"),
    ("10080", r"10,\!080"),
    ("1,450,000", "1450000"),
    ("1450000", "1,450,000"),
    ("12{,}000", "12000"),
    (r"30^\circ", "30"),
    ("30", r"30^\circ"),
    ("30 degrees", r"30^\circ"),
    ("30°", r"30^\circ"),
    (r"\{1,2\}", r"\{2,1\}"),
    ("1,2", "2,1"),
    ("2 and 1", "1,2"),
    (r"2 \text{ and } 1", "1,2"),
    ("x=1 or x=2", "1,2"),
    ("(1,1), (3,2)", "$(3,2),(1,1)$"),
    ("-2,1", "1,-2"),
    ("[0,1)", "[0, 1)"),
    (r"(3,\infty)\cup(-\infty,2)", r"(-\infty, 2) \cup (3, \infty)"),
    ("x<2", r"(-\infty,2)"),
    (r"x \in [2,5]", "[2,5]"),
    ("k ≥ 2", r"k \geqslant 2"),
    ("(-∞, 2)", r"(-\infty,2)"),
    (r"\left(3,\frac{\pi}{2}\right)", r"\left( 3, \frac{\pi}{2} \right)"),
    ("(3, π/2)", r"\left( 3, \frac{\pi}{2} \right)"),
    (r"\begin{bmatrix}1\\2\end{bmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
    (
        r"\begin{pmatrix} -1/3 \\ 2/3 \end{pmatrix}",
        r"\begin{pmatrix} -\frac{1}{3} \\ \frac23 \end{pmatrix}",
    ),
    ("even", r"\text{even}"),
    (r"\text{Even}", "even"),
    ("Evelyn", r"\text{Evelyn}"),
    ("E", r"\text{(E)}"),
    ("(E)", r"\text{(E)}"),
    (r"\text{E}", r"\text{(E)}"),
    ("June 20", r"\text{June 20}"),
    ("yes", "Yes"),
    ("x=3", "3"),
    ("3", "x=3"),
    ("y=-2x", "-2x"),
    ("-2x", "y = -2x"),
    ("(x+1)^2", "x^2+2x+1"),
    (r"\sqrt{12}", r"2\sqrt{3}"),
    ("2√3", r"2\sqrt{3}"),
    ("274i+1", "1+274i"),
    (r"1\frac{4}{5}", "9/5"),
    ("1.8", r"1\frac{4}{5}"),
    ("0.75", r"\frac 34"),
    ("½", "0.5"),
    ("52", "52_8"),
    ("52_{8}", "52_8"),
    (r"1+\sqrt{19}, 1-\sqrt{19}", r"1 \pm \sqrt{19}"),
    (r"\frac{(2n)!}{(n!)^2}", r"\binom{2n}{n}"),
    (r"\frac{n(n+1)}{2}", r"\binom{n+1}{2}"),
    ("0.001", "10^{-3}"),
    ("1e-3", "0.001"),
    (r"1.5\times10^{3}", "1500"),
    ("1.5 × 10^3", "1500"),
    (r"\log_2 8", "3"),
    ("x+y=3", "2x+2y=6"),
    ("f(x)=x+1", "x+1"),
    ("3.0", "3"),
    ("7.", "7"),
    (r"11\sqrt2", r"11\sqrt{2}"),
    ("x + 1 = y", "y=x+1"),
    (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}"),
    ("−3", "-3"),
    ("2^{10}", "1024"),
    ("3:2", "3:2"),
    ("5!", "120"),
    ("p - q", "p-q"),
    ("(6,31,-1)", "(6, 31, -1)"),
    ("$f(x)=x$,$f(x)=2-x$", "$f(x)=2-x$, $f(x)=x$"),
    (r"\text{5 cm}", "5"),
    ("1 000 000", "1000000"),
    (r"\emptyset", r"\varnothing"),
    ("1/3", r"0.\overline{3}"),
    (r"0.1\overline{6}", "1/6"),
    (r"\sin^2x+\cos^2x", "1"),
    (r"33\frac{1}{3}\%", r"\frac{100}{3}\%"),
    ("007", "7"),
    (r"x\in(-\infty,3]", r"x \le 3"),
]
"""Answer and reference."""

OTHER = [
    ("0.33", "1/3"),
    (r"0.5\%", "0.5"),
    ("0.05", r"50\%"),
    ("5 m", r"5\text{ cm}"),
    ("5 hours", r"5 \text{ minutes}"),
    ("5 cm^2", r"5 \text{ cm}^3"),
    ("18.09", r"\$18.90"),
    ("1008", "10,080"),
    ("10.080", "10,080"),
    ("(2,3)", "(3,2)"),
    ("(1,2)", r"\{1,2\}"),
    ("(0,1)", "[0,1]"),
    ("[0,1]", "(0,1)"),
    ("[0,1]", "[0,1)"),
    (r"(2,3)\cup(3,4)", "(2,4)"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}"),
    (r"\begin{pmatrix}1&2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
    ("odd", r"\text{even}"),
    ("vene", r"\text{even}"),
    ("silent", r"\text{listen}"),
    ("D", r"\text{(E)}"),
    ("June 21", r"\text{June 20}"),
    ("(x+1)^2", "x^2+1"),
    ("53_8", "52_8"),
    ("52_9", "52_8"),
    ("-3", "3"),
    ("1e-7", "0"),
    ("0", "1e-7"),
    ("10^{20}", "10^{20}+1"),
    ("10000000000000001", "10000000000000000"),
    ("2.0000001", "2"),
    ("3.14", r"\pi"),
    ("2k+2", "2k"),
    ("q-p", "p-q"),
    ("1", "1,2"),
    ("1,2", "1"),
    ("1,2,3", "1,2"),
    (r"1+\sqrt{19}", r"1 \pm \sqrt{19}"),
    (r"-\infty", r"\infty"),
    ("y=3", "x=3"),
    ("x>2", "x<2"),
    (r"x\le2", "x<2"),
    ("2:3", "3:2"),
    ("three", "7"),
    ("11", r"1\frac{1}{1}"),
    ("14/5", r"1\frac{4}{5}"),
    ("30", r"30.5^\circ"),
    ("(1,1)", "(1,1),(3,2)"),
    ("274-i", "274+i"),
    ("x^3", "x^2"),
    ("12", "1,2"),
    ("no", "yes"),
    ("(2,1)", "1,2,3"),
    (r"\sqrt{3}", r"\sqrt[3]{3}"),
    ("2^{3^2}", "64"),
    ("-x^2", "(-x)^2"),
]
"""Near misses."""


@pytest.mark.parametrize(("answer", "reference"), SAME)
def test_an_equal_value_in_another_notation_is_right(
    grader: Grader, answer: str, reference: str
) -> None:
    assert grader.grade(f"So it is \\boxed{{{answer}}}.", reference) == "right"
    assert grader.grade(answer, reference) == "right"


@pytest.mark.parametrize(("answer", "reference"), OTHER)
def test_a_similar_but_different_answer_is_wrong(
    grader: Grader, answer: str, reference: str
) -> None:
    assert grader.grade(f"So it is \\boxed{{{answer}}}.", reference) == "wrong"
    assert grader.grade(answer, reference) == "wrong"


@pytest.mark.parametrize(
    ("text", "right"),
    [
        (r"First \boxed{6}, no: \boxed{7}.", True),
        (r"\boxed{7}, which is not \boxed{8}.", False),
        ("3 + 4 = 7\n#### 7", True),
        ("#### 1,007", False),
        ("The answer is 7. I hope it is correct.", True),
        ("**Answer:** $7$", True),
        ("Answer: 7 apples.", True),
        ("She had 3 apples and got 4 more, so she has 7 apples now.", True),
        ("She had 7 apples and got 4 more, so she has 11 apples now.", False),
        ("It costs $7.00 in all for her and for him.", True),
        ("We find $x = 7$.", True),
        ("So 3 + 4 = 7.", True),
        ("Let me think about it for a while", False),
        ("and so let the points x_{7}, C_{7 and D^7 be what they are, and", False),  # cut off
        ("", False),
        (r"\boxed{7", True),
        (r"\boxed{}", False),
    ],
)
def test_the_final_answer_of_a_text_is_graded(grader: Grader, text: str, right: bool) -> None:
    assert (grader.grade(text, "7") == "right") is right


def test_adjacent_boxes_are_one_list(grader: Grader) -> None:
    assert grader.grade(r"So $\boxed{1}$ and $\boxed{2}$.", "1, 2") == "right"
    assert grader.grade(r"Not \boxed{1}, for then it fails. So \boxed{2}.", "1, 2") == "wrong"


@pytest.mark.parametrize("reference", ["so\n#### 7", r"\boxed{7}", "$7$", "7"])
def test_references_are_accepted_in_all_dataset_formats(grader: Grader, reference: str) -> None:
    assert grader.grade("7", reference) == "right"
    assert grader.kind(reference) == "math"


@pytest.mark.parametrize(
    ("reference", "kind"),
    [
        (r"\text{Evelyn}", "text"),
        (r"\text{(C)}", "text"),
        (r"1 \pm \sqrt{19}", "math"),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", "math"),
        ("$t(0,4]$", "unreadable"),
        (r"\frac{1}{", "unreadable"),
        ("", "unreadable"),
        ("#### ", "unreadable"),
    ],
)
def test_the_kind_of_a_reference_is_determined_without_an_answer(
    grader: Grader, reference: str, kind: str
) -> None:
    assert grader.kind(reference) == kind


def test_a_comparison_beyond_the_time_limit_is_late(grader: Grader) -> None:
    with Grader(time_limit=0.5) as hasty:
        hasty.kind("1+1")  # it has started
        start = time.perf_counter()
        assert hasty.grade(r"\boxed{3^{1000000000}}", "7") == "late"
        assert time.perf_counter() - start < 5
        assert hasty.grade(r"\boxed{\frac{2}{4}}", "0.5") == "right"  # in a new process


def test_the_time_limit_applies_on_other_threads() -> None:
    found: list[bool] = []

    def work() -> None:
        found.append(grade(r"\boxed{2\sqrt{3}}", r"\sqrt{12}", time_limit=20))
        found.append(grade(r"\boxed{10000000!}", "3", time_limit=0.5))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(found) == [False, False, True, True]


def test_a_killed_grading_process_is_replaced() -> None:
    with Grader() as grader:
        assert grader.grade(r"\boxed{x+1}", "1+x") == "right"
        assert grader._worker is not None
        grader._worker._process.kill()
        grader._worker._process.wait()
        assert grader.grade(r"\boxed{x+2}", "2+x") == "right"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_starts_its_own_grading_process() -> None:
    with Grader() as grader:
        assert grader.grade(r"\boxed{x+1}", "1+x") == "right"
        child = os.fork()
        if child == 0:
            os._exit(0 if grader.grade(r"\boxed{x+3}", "3+x") == "right" else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert grader.grade(r"\boxed{x+4}", "4+x") == "right"


def test_a_time_limit_of_zero_is_refused() -> None:
    with pytest.raises(SettingsError, match="greater than 0 seconds, not 0"):
        Grader(time_limit=0)


def test_an_error_about_missing_math_verify_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(grading, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'langgraph-arbitrage\[eval\]'"):
        Grader()
