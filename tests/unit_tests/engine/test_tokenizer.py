"""Tokenizers and chat templates of checkpoints."""

import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from langgraph_arbitrage.engine import ModelSpec, Tokenizer, load_tokenizer
from langgraph_arbitrage.errors import ChatTemplateError, CheckpointError
from prms import math_shepherd
from tiny import CHAT_TEMPLATE, KINDS, QUESTIONS, make, prompt, tokenizer

TEXTS = [
    "So 3 + 4 = 7.\n\n",
    " and more",
    "\n\nShe adds",
    "",
    "naïve café。😀",
    "  two  blanks ",
    "<user>is not a message",
]


@pytest.fixture(scope="module")
def tokens() -> Tokenizer:
    return load_tokenizer(ModelSpec(make("llama")))


def test_render_gives_the_ids_of_the_models_own_template(tokens: Tokenizer) -> None:
    for question in QUESTIONS:
        assert tokens.render([{"role": "user", "content": question}]) == prompt(question)


@pytest.mark.parametrize("kind", KINDS)
def test_text_is_encoded_as_in_tokenizer_json_for_every_architecture(kind: str) -> None:
    """AutoTokenizer chooses another tokenizer for Qwen2."""
    found = load_tokenizer(ModelSpec(make(kind)))
    for question in QUESTIONS:
        assert found.render([{"role": "user", "content": question}]) == prompt(question)


def test_render_uses_the_specs_template_if_the_model_has_none(tmp_path: Path) -> None:
    spec = ModelSpec(str(_without_template(tmp_path)), chat_template=CHAT_TEMPLATE)
    found = load_tokenizer(spec).render([{"role": "user", "content": QUESTIONS[0]}])
    assert found == prompt(QUESTIONS[0])


def test_a_missing_template_is_reported_with_a_solution(tmp_path: Path) -> None:
    folder = _without_template(tmp_path)
    with pytest.raises(ChatTemplateError, match=r"plain has no chat template.*chat_template="):
        load_tokenizer(ModelSpec(str(folder))).render([{"role": "user", "content": "Hello"}])


def test_a_template_that_rejects_a_conversation_is_reported(tmp_path: Path) -> None:
    template = "{{ raise_exception('only the user may speak') }}"
    spec = ModelSpec(str(_without_template(tmp_path)), chat_template=template)
    message = r"chat template of plain cannot .*\['system', 'user'\].*only the user may speak"
    with pytest.raises(ChatTemplateError, match=message):
        load_tokenizer(spec).render(
            [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}]
        )


def _without_template(tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(make("llama"), tmp_path / "plain"))
    (folder / "chat_template.jinja").unlink()
    return folder


@pytest.mark.parametrize("text", TEXTS)
def test_decoding_encoded_text_returns_the_text(tokens: Tokenizer, text: str) -> None:
    assert tokens.decode(tokens.encode(text)) == text.replace("<user>", "")


@pytest.mark.parametrize("before", TEXTS)
def test_decode_after_returns_the_added_text(tokens: Tokenizer, before: str) -> None:
    for text in TEXTS:
        found = tokens.decode_after(tokens.encode(before), tokens.encode(text))
        assert found == text.replace("<user>", "")


def test_texts_of_both_parts_add_up_for_every_split(tokens: Tokenizer) -> None:
    ids = tokens.encode("She adds 3 to 4.\n\nSo 7, naïve or not.")
    whole = tokens.decode(ids)
    for cut in range(len(ids)):
        if "\ufffd" not in (first := tokens.decode(ids[:cut])):
            assert first + tokens.decode_after(ids[:cut], ids[cut:]) == whole


def test_equal_vocabularies_are_shared_and_others_are_not(tokens: Tokenizer) -> None:
    same = load_tokenizer(ModelSpec(make("llama", seed=1)))
    other = load_tokenizer(ModelSpec(make("llama", vocabulary=330)))
    assert tokens.shares_vocabulary(tokens)
    assert tokens.shares_vocabulary(same)
    assert not tokens.shares_vocabulary(other)
    assert not other.shares_vocabulary(tokens)


def test_tokenizers_are_loaded_once(tokens: Tokenizer) -> None:
    assert load_tokenizer(ModelSpec(make("llama"))) is tokens
    assert load_tokenizer(ModelSpec(make("llama"), kind="value-head", max_slots=1)) is tokens


def test_a_frame_contains_the_texts_around_missing_contents(tokens: Tokenizer) -> None:
    frame = tokens.frame(("user", None), ("assistant", "+"), ("user", None))
    assert frame == ["<user>", "<end>\n<assistant>+<end>\n<user>", "<end>\n<assistant>"]
    without_contents = Tokenizer(tokenizer(), "tiny", None)
    without_contents.chat_template = "{{ messages[0]['role'] }}"
    with pytest.raises(ChatTemplateError, match="tiny omits the content of a message"):
        without_contents.frame(("user", None))


def test_choices_are_single_tokens_with_or_without_the_space(tokens: Tokenizer) -> None:
    hf = tokenizer()
    assert tokens.choices("So ", ["3", "4"]) == (hf.encode("So"), hf.encode(" 3 4"))
    digits = tokens.choices("So ", list("0123456789"))  # " 0" is two tokens
    assert digits == (hf.encode("So "), hf.convert_tokens_to_ids(list("0123456789")))
    with pytest.raises(CheckpointError, match="does not encode each of 'yes', 'no' as a single"):
        tokens.choices("So ", ["yes", "no"])


def test_a_continuation_is_encoded_as_in_the_middle_of_a_text() -> None:
    """A tokenizer that adds a space before a text adds none before a continuation."""
    shepherd = load_tokenizer(ModelSpec(math_shepherd()))
    assert shepherd.encode("\nShe") == shepherd.encode("So\nShe", begins=True)[1:]
    assert shepherd.encode("She", begins=True) == shepherd.hf.encode("She")[1:]
    assert shepherd.encode(" She") == shepherd.encode("She", begins=True)


def test_threads_can_encode_concurrently() -> None:
    """A fast tokenizer without a lock raises `Already borrowed`."""
    shared, rng = Tokenizer(tokenizer(), "tiny", None), random.Random(0)
    texts = [" ".join(rng.choices(TEXTS, k=50)) for _ in range(64)]
    expected = [shared.encode(t) for t in texts]

    def work(text: str) -> list[int]:
        shared.render([{"role": "user", "content": text}])
        return shared.encode(text)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, texts)) == expected
