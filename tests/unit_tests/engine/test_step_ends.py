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
    """The id of the token with this text."""
    (token_id,) = TOKENS.hf.encode(text, add_special_tokens=False)
    return token_id


def first_end(
    ids: Sequence[int], separators: Sequence[str], stop: Sequence[str], tail: str = ""
) -> tuple[int, str] | None:
    """Number of tokens after which a step ends and why, by a search of its whole text."""
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
        ([" now"], " "),  # the token extends beyond the separator
        (["\n", "\n"], "\n\n"),  # split over two tokens
        (["apples", " now"], "s n"),  # within two tokens
        (["So", "\n", " ", "\n", "\n"], "\n\n"),
        (["。"], "。"),
    ],
)
def test_a_separator_is_found_however_it_is_tokenized(texts: list[str], separator: str) -> None:
    rule, ids = StopRule(TOKENS, (separator,), ()), [token("Z")]
    for text in texts:
        assert rule.match(token("Z"), ids, "") is None
        ids += TOKENS.hf.encode(text, add_special_tokens=False)
    assert rule.match(token("Z"), ids, "") == "separator"


def test_a_separator_that_begins_before_the_step_does_not_end_it() -> None:
    rule = StopRule(TOKENS, ("\n\n",), ())
    assert rule.match(token("\n"), [token("\n")], "...\n") is None
    assert rule.match(token("\n"), [token("\n"), token("\n")], "...\n") == "separator"


def test_a_stop_string_may_begin_before_the_step() -> None:
    rule = StopRule(TOKENS, ("\n\n",), ("END",))
    assert rule.match(token("N"), [token("D")], "...EN") == "stop"
    assert rule.match(token("N"), [token("D")], "...XN") is None
    assert rule.match(token("E"), [token("N"), token("D")], "...E") == "stop"


def test_a_stop_string_takes_precedence_over_a_separator() -> None:
    rule = StopRule(TOKENS, ("D",), ("END",))
    assert rule.match(None, [token("E"), token("N"), token("D")], "") == "stop"


@pytest.mark.parametrize("seed", range(8))
def test_ends_equal_those_of_a_search_of_the_whole_text(seed: int) -> None:
    rng = random.Random(seed)
    common = [token(t) for t in ("a", "b", "\n", " ", ".", " the", " now", " buys")]
    multibyte = TOKENS.hf.encode("é。😀", add_special_tokens=False)
    for _ in range(60):
        ids = [rng.choice([*common, *multibyte]) for _ in range(30)]
        text = TOKENS.decode(ids)
        patterns = [text[i : i + rng.randint(1, 4)] for i in rng.choices(range(26), k=4)]
        patterns = [p for p in patterns if "\ufffd" not in p]
        separators, stop = tuple(patterns[:2]), tuple(patterns[2:])
        tail = rng.choice(["", "a", "b\n", "apples"])
        rule, found = StopRule(TOKENS, separators, stop), None
        for n in range(1, len(ids) + 1):
            if reason := rule.match(None, ids[:n], tail):
                found = (n, reason)
                break
        assert found == first_end(ids, separators, stop, tail)


def test_a_generated_step_ends_at_the_first_separator(llama: Engine) -> None:
    path, rng, ended = make("llama", endless=True), random.Random(0), 0
    for seed in range(4):
        ids = random_ids(12, seed=seed)
        free = generate(path, ids, 40)
        text = TOKENS.decode(free)
        for _ in range(6):
            patterns = [text[i : i + rng.randint(1, 3)] for i in rng.choices(range(50), k=2)]
            separators = tuple(p for p in patterns if p and "\ufffd" not in p)
            output = llama.submit(
                GenerateRequest(ids, max_tokens=40, separators=separators)
            ).result()
            n, reason = first_end(free, separators, ()) or (40, "length")
            assert (output.ids, output.finish) == (free[:n], reason)
            ended += reason == "separator"
    assert ended >= 10


def test_a_token_that_extends_beyond_a_separator_stays_in_the_step(llama: Engine) -> None:
    path, ids = make("llama", endless=True), random_ids(12)
    free = generate(path, ids, 40)
    long = next(i for i, t in enumerate(free) if len(TOKENS.token_text(t)) >= 3 and i > 2)
    middle = TOKENS.token_text(free[long])[:-1]
    output = llama.submit(GenerateRequest(ids, max_tokens=40, separators=(middle,))).result()
    assert output.finish == "separator"
    assert len(output.ids) == first_end(free, (middle,), ())[0]
    assert TOKENS.decode(output.ids)[-len(middle) :] != middle


def test_a_step_ends_at_max_tokens(llama: Engine) -> None:
    for n in (1, 2, 17):
        output = llama.submit(
            GenerateRequest(random_ids(9), max_tokens=n, separators=("\n\n",))
        ).result()
        assert (len(output.ids), output.finish) == (n, "length")
        assert len(output.logprobs) == n


def test_a_step_ends_with_the_end_token(fresh: Make, tmp_path: Path) -> None:
    """The generation config may list several end tokens."""
    ids = random_ids(10)
    free = generate(make("llama", endless=True), ids, 30)
    folder = tmp_path / "ends"
    shutil.copytree(make("llama", endless=True), folder)
    end = [free[9], free[20]]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": end}))
    output = fresh(str(folder)).submit(GenerateRequest(ids, max_tokens=30)).result()
    first = min(free.index(e) for e in end)
    assert (output.ids, output.finish) == (free[: first + 1], "end")


def test_a_step_ends_at_the_context_length(engine: Make) -> None:
    path = make("llama", endless=True, max_position_embeddings=64)
    ids = random_ids(40)
    output = engine(path).submit(GenerateRequest(ids, max_tokens=100)).result()
    assert (len(output.ids), output.finish) == (24, "context")
    assert output.ids == generate(path, ids, 24)
    assert len(engine(path).submit(GenerateRequest(random_ids(63), max_tokens=5)).result().ids) == 1


def test_a_prompt_that_fills_the_context_is_rejected_with_token_counts(engine: Make) -> None:
    path = make("llama", endless=True, max_position_embeddings=64)
    for n in (64, 65, 500):
        with pytest.raises(ContextLengthError, match=rf"\b{n} tokens .* context length is 64"):
            engine(path).submit(GenerateRequest(random_ids(n), max_tokens=1))


def test_an_empty_request_is_rejected(llama: Engine) -> None:
    with pytest.raises(SettingsError, match="contains no tokens"):
        llama.submit(GenerateRequest([], max_tokens=1))
    with pytest.raises(SettingsError, match="max_tokens must be at least 1, not 0"):
        llama.submit(GenerateRequest([1], max_tokens=0))
    for empty in ({"separators": ("a", "")}, {"stop": ("",)}, {"spans": (("<a>", ""),)}):
        with pytest.raises(SettingsError, match="is empty"):
            llama.submit(GenerateRequest([1], 1, **empty))
