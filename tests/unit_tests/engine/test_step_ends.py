"""Where a step ends: separators, stop strings, end tokens, limits."""

import json
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from langgraph_arbitrage.decoding.stop_rule import StopRule
from langgraph_arbitrage.engine import Engine, GenerateRequest
from langgraph_arbitrage.errors import ContextLengthError, SettingsError
from langgraph_arbitrage.models.tokenizer import Tokenizer
from tiny import generate, make, random_ids, tokenizer

Make = Callable[..., Engine]
TOKENS = Tokenizer(tokenizer(), "tiny", None)


def token(text: str) -> int:
    """The one token that is this text."""
    (found,) = TOKENS.hf.encode(text, add_special_tokens=False)
    return found


def first_end(
    ids: Sequence[int], separators: Sequence[str], stop: Sequence[str], tail: str = ""
) -> tuple[int, str] | None:
    """After how many of `ids` a step ends, and why: by looking at all its text each time."""
    for n in range(1, len(ids) + 1):
        text = TOKENS.decode(ids[:n])
        if any(s in tail + text for s in stop):
            return n, "stop"
        if any(s in text for s in separators):
            return n, "separator"
    return None


@pytest.fixture(scope="module")
def llama(engine: Make) -> Engine:
    return engine(make("llama", endless=True))


@pytest.mark.parametrize(
    ("texts", "separator"),
    [
        ([" now"], " now"),
        ([" now"], " "),  # the token overhangs it
        (["\n", "\n"], "\n\n"),  # made of two tokens
        (["apples", " now"], "s n"),  # inside of two tokens
        (["So", "\n", " ", "\n", "\n"], "\n\n"),
        (["。"], "。"),
    ],
)
def test_a_separator_is_found_however_it_is_cut_into_tokens(
    texts: list[str], separator: str
) -> None:
    ends, ids = StopRule(TOKENS, (separator,), ()), [token("Z")]
    for text in texts:
        assert ends.found(token("Z"), ids, "") is None
        ids += TOKENS.hf.encode(text, add_special_tokens=False)
    assert ends.found(token("Z"), ids, "") == "separator"


def test_a_separator_that_begins_before_the_step_does_not_end_it() -> None:
    ends = StopRule(TOKENS, ("\n\n",), ())
    assert ends.found(token("\n"), [token("\n")], "...\n") is None
    assert ends.found(token("\n"), [token("\n"), token("\n")], "...\n") == "separator"


def test_a_stop_string_may_begin_before_the_step() -> None:
    ends = StopRule(TOKENS, ("\n\n",), ("END",))
    assert ends.found(token("N"), [token("D")], "...EN") == "stop"
    assert ends.found(token("N"), [token("D")], "...XN") is None
    assert ends.found(token("E"), [token("N"), token("D")], "...E") == "stop"


def test_a_stop_string_goes_before_a_separator() -> None:
    ends = StopRule(TOKENS, ("D",), ("END",))
    assert ends.found(None, [token("E"), token("N"), token("D")], "") == "stop"


@pytest.mark.parametrize("seed", range(8))
def test_ends_are_those_of_a_search_through_all_the_text(seed: int) -> None:
    rng = random.Random(seed)
    few = [token(t) for t in ("a", "b", "\n", " ", ".", " the", " now", " buys")]
    bytes_of = TOKENS.hf.encode("é。😀", add_special_tokens=False)
    for _ in range(60):
        ids = [rng.choice([*few, *bytes_of]) for _ in range(30)]
        text = TOKENS.decode(ids)
        patterns = [text[i : i + rng.randint(1, 4)] for i in rng.choices(range(26), k=4)]
        patterns = [p for p in patterns if "\ufffd" not in p]
        separators, stop = tuple(patterns[:2]), tuple(patterns[2:])
        tail = rng.choice(["", "a", "b\n", "apples"])
        ends, found = StopRule(TOKENS, separators, stop), None
        for n in range(1, len(ids) + 1):
            if reason := ends.found(None, ids[:n], tail):
                found = (n, reason)
                break
        assert found == first_end(ids, separators, stop, tail)


def test_a_written_step_ends_at_the_first_separator(llama: Engine) -> None:
    path, rng, ended = make("llama", endless=True), random.Random(0), 0
    for seed in range(4):
        ids = random_ids(12, seed=seed)
        free = generate(path, ids, 40)
        text = TOKENS.decode(free)
        for _ in range(6):
            patterns = [text[i : i + rng.randint(1, 3)] for i in rng.choices(range(50), k=2)]
            separators = tuple(p for p in patterns if p and "\ufffd" not in p)
            written = llama.submit(
                GenerateRequest(ids, max_tokens=40, separators=separators)
            ).result()
            n, why = first_end(free, separators, ()) or (40, "length")
            assert (written.ids, written.finish) == (free[:n], why)
            ended += why == "separator"
    assert ended >= 10


def test_what_overhangs_a_separator_stays_in_the_step(llama: Engine) -> None:
    path, ids = make("llama", endless=True), random_ids(12)
    free = generate(path, ids, 40)
    long = next(i for i, t in enumerate(free) if len(TOKENS.token_text(t)) >= 3 and i > 2)
    middle = TOKENS.token_text(free[long])[:-1]
    written = llama.submit(GenerateRequest(ids, max_tokens=40, separators=(middle,))).result()
    assert written.finish == "separator"
    assert len(written.ids) == first_end(free, (middle,), ())[0]
    assert TOKENS.decode(written.ids)[-len(middle) :] != middle


def test_max_tokens_ends_a_step(llama: Engine) -> None:
    for n in (1, 2, 17):
        written = llama.submit(
            GenerateRequest(random_ids(9), max_tokens=n, separators=("\n\n",))
        ).result()
        assert (len(written.ids), written.finish) == (n, "length")
        assert len(written.logprobs) == n


def test_an_end_token_ends_a_step_and_is_part_of_it(fresh: Make, tmp_path: Path) -> None:
    """The end tokens are those of the generation config, several if it names several."""
    ids = random_ids(10)
    free = generate(make("llama", endless=True), ids, 30)
    folder = tmp_path / "ends"
    shutil.copytree(make("llama", endless=True), folder)
    end = [free[9], free[20]]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": end}))
    written = fresh(str(folder)).submit(GenerateRequest(ids, max_tokens=30)).result()
    first = min(free.index(e) for e in end)
    assert (written.ids, written.finish) == (free[: first + 1], "end")


def test_the_end_of_the_context_ends_a_step(engine: Make) -> None:
    path = make("llama", endless=True, max_position_embeddings=64)
    ids = random_ids(40)
    written = engine(path).submit(GenerateRequest(ids, max_tokens=100)).result()
    assert (len(written.ids), written.finish) == (24, "context")
    assert written.ids == generate(path, ids, 24)
    assert len(engine(path).submit(GenerateRequest(random_ids(63), max_tokens=5)).result().ids) == 1


def test_a_prompt_that_fills_the_context_is_refused_with_counts(engine: Make) -> None:
    path = make("llama", endless=True, max_position_embeddings=64)
    for n in (64, 65, 500):
        with pytest.raises(ContextLengthError, match=rf"\b{n} tokens .* reads 64"):
            engine(path).submit(GenerateRequest(random_ids(n), max_tokens=1))


def test_a_request_that_asks_nothing_is_refused(llama: Engine) -> None:
    with pytest.raises(SettingsError, match="without tokens"):
        llama.submit(GenerateRequest([], max_tokens=1))
    with pytest.raises(SettingsError, match="max_tokens must be at least 1, not 0"):
        llama.submit(GenerateRequest([1], max_tokens=0))
    for empty in ({"separators": ("a", "")}, {"stop": ("",)}, {"spans": (("<a>", ""),)}):
        with pytest.raises(SettingsError, match="is empty; leave it out"):
            llama.submit(GenerateRequest([1], 1, **empty))
