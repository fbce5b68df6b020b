"""Each format returns the score of its published recipe, computed with plain `transformers`."""

from collections.abc import Callable, Sequence

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedTokenizerFast,
    Qwen2ForCausalLM,
    Qwen2Model,
)

import prms
from langgraph_arbitrage import Models, PastStep
from langgraph_arbitrage.scorers import StepScorer, load_scorer
from tiny import loaded, tokenizer

QUESTION = "Ann has 3 apples and buys 4 more. How many has she?"
STEPS = [
    "She starts with 3 apples.\n\n",
    "At the shop she buys 4 more:\n3 + 4 = 7.\n\n",
    "So the answer is 7.",
]
PAST = [PastStep(writer, text, 9) for writer, text in zip(("draft", "target"), STEPS, strict=False)]
Reference = Callable[[str, Sequence[str]], tuple[list[int], float]]


def sigmoid(value: float) -> float:
    return torch.tensor(value).sigmoid().item()


# --- the published recipes -----------------------------------------------------------------


def token_classifier(path: str, steps: Sequence[str]) -> tuple[list[int], float]:
    """Tokenize question and steps separately, as TRL does; classify the last token."""
    steps = [s if s.endswith("\n\n") else f"{s}\n\n" for s in steps]
    ids = [i for text in (f"{QUESTION}\n", *steps) for i in tokenizer().encode(text)]
    logits = loaded(path, AutoModelForTokenClassification)(torch.tensor([ids])).logits
    return ids, logits[0, -1].softmax(-1)[1].item()


def sequence_classifier(path: str, steps: Sequence[str]) -> tuple[list[int], float]:
    ids, _ = token_classifier(prms.trl(), steps)
    logits = loaded(path, AutoModelForSequenceClassification)(torch.tensor([ids])).logits[0]
    return ids, sigmoid(logits.item()) if len(logits) == 1 else logits.softmax(-1)[1].item()


def skywork(path: str, steps: Sequence[str]) -> tuple[list[int], float]:
    """Apply `prepare_input` with one step per line, and the value head to the last token."""
    hf = PreTrainedTokenizerFast.from_pretrained(path)
    ids = hf.encode(f"{hf.bos_token}{QUESTION}\n")
    for line in (line for step in steps for line in step.split("\n") if line):
        ids += [*hf.encode(line), hf.encode("\n")[-1]]
    weights = load_file(f"{path}/model.safetensors")
    state = {name.removeprefix("pretrained_model."): w for name, w in weights.items()}
    head = [state.pop(f"v_head.summary.{part}") for part in ("weight", "bias")]
    model = Qwen2ForCausalLM(Qwen2ForCausalLM.config_class.from_pretrained(path)).eval()
    model.load_state_dict(state)
    hidden = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1]
    return ids, sigmoid(torch.nn.functional.linear(hidden, *head)[0, -1, 0].item())


def qwen(path: str, steps: Sequence[str]) -> tuple[list[int], float]:
    """Build the card's conversation and classify the last `<extra_0>`."""
    hf = PreTrainedTokenizerFast.from_pretrained(path)
    text = hf.apply_chat_template(
        [
            {
                "role": "system",
                "content": "Please reason step by step, and put your final answer within "
                "\\boxed{}.",
            },
            {"role": "user", "content": QUESTION},
            {"role": "assistant", "content": "".join(s.strip() + "<extra_0>" for s in steps)},
        ],
        tokenize=False,
        add_generation_prompt=False,
    )
    ids = hf.encode(text)
    marks = [i for i, token in enumerate(ids) if token == hf.encode("<extra_0>")[0]]
    weights = load_file(f"{path}/model.safetensors")
    model = Qwen2Model(Qwen2Model.config_class.from_pretrained(path)).eval()
    model.load_state_dict(
        {n.removeprefix("model."): w for n, w in weights.items() if n.startswith("model.")}
    )
    hidden = model(torch.tensor([ids])).last_hidden_state
    for layer in ("score.0", "score.2"):
        hidden = torch.nn.functional.linear(
            hidden.relu() if layer == "score.2" else hidden,
            weights[f"{layer}.weight"],
            weights[f"{layer}.bias"],
        )
    assert len(marks) == len(steps)
    return ids[: marks[-1] + 1], hidden[0, marks[-1]].softmax(-1)[1].item()


def rlhflow(path: str, steps: Sequence[str]) -> tuple[list[int], float]:
    """Reply `+` to one turn per step; compare `+` and `-` as the last reply."""
    turns = []
    for i, step in enumerate(steps):
        text = f"{QUESTION} {step.strip()}" if i == 0 else step.strip()
        turns += [{"role": "user", "content": text}, {"role": "assistant", "content": "+"}]
    hf = tokenizer()
    ids = hf.apply_chat_template(turns, return_dict=True)["input_ids"]
    plus, minus = hf.encode("+")[-1], hf.encode("-")[-1]
    reply = len(ids) - 1 - ids[::-1].index(plus)
    logits = loaded(path)(torch.tensor([ids])).logits[0, reply - 1]
    return ids[:reply], logits[[plus, minus]].softmax(-1)[0].item()


def math_shepherd(path: str, steps: Sequence[str]) -> tuple[list[int], float]:
    """Put one step per line, each followed by ` ки`; compare ` +` and ` -` after the last tag."""
    hf = PreTrainedTokenizerFast.from_pretrained(path)
    lines = "\n".join(f"{step.strip()} ки" for step in steps)
    ids = hf.encode(f"{QUESTION} {lines}")
    good, bad = hf.encode("+ -")[1:]
    tags = [i for i, token in enumerate(ids) if token == hf.encode("ки")[-1]]
    assert len(tags) == len(steps)
    logits = AutoModelForCausalLM.from_pretrained(path)(torch.tensor([ids])).logits[0]
    return ids, logits[tags[-1], [good, bad]].softmax(-1)[0].item()


FORMATS: dict[str, tuple[Callable[[], str], Reference]] = {
    "token-classification": (prms.trl, token_classifier),
    "sequence-classification": (
        lambda: prms.trl(head="sequence-classification"),
        sequence_classifier,
    ),
    "sequence-classification, one label": (
        lambda: prms.trl(1, "sequence-classification"),
        sequence_classifier,
    ),
    "value-head": (prms.value_head, skywork),
    "value-head, wrapped": (lambda: prms.value_head(wrapped=True), skywork),
    "qwen-prm": (prms.qwen_prm, qwen),
    "rlhflow": (prms.rlhflow, rlhflow),
    "math-shepherd": (prms.math_shepherd, math_shepherd),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_step_is_scored_as_published_and_computes_only_its_own_tokens(
    name: str, models: Models
) -> None:
    make, reference = FORMATS[name]
    path = make()
    scorer: StepScorer = load_scorer(path, name.partition(",")[0])
    previous_ids: list[int] = []
    values = []
    for i, step in enumerate(STEPS):
        with torch.no_grad():
            ids, expected = reference(path, STEPS[: i + 1])
        call = models.scorer_call(scorer.request(QUESTION, PAST[:i], step), QUESTION)
        engine, request = call.engine, call.request
        output = engine.submit(request).result()
        assert list(request.ids) == ids
        assert scorer.read(PAST[:i], output).value == pytest.approx(expected, abs=1e-4)
        values.append(round(expected, 2))
        assert ids[: len(previous_ids)] == previous_ids
        assert output.computed_tokens <= len(ids) - len(previous_ids)
        previous_ids = ids
    assert engine.backend == "slot"
    assert len(set(values)) > 1


@pytest.mark.parametrize("name", FORMATS)
def test_another_step_after_the_same_prefix_computes_only_that_step(
    name: str, models: Models
) -> None:
    path = FORMATS[name][0]()
    scorer = load_scorer(path, name.partition(",")[0])
    requests = [
        models.scorer_call(scorer.request(QUESTION, PAST, step), QUESTION)
        for step in (STEPS[2], "She has 8 apples.")
    ]
    engine, first, second = requests[0].engine, requests[0].request, requests[1].request
    engine.submit(first).result()
    call = models.scorer_call(scorer.request(QUESTION, PAST[:1], PAST[1].text), QUESTION)
    before = call.request
    tag = 9 if name == "rlhflow" else 0  # tokens between two turns
    assert engine.submit(second).result().computed_tokens <= len(second.ids) - len(before.ids) + tag
