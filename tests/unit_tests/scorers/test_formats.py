"""Each format's value is that of its published recipe, by `transformers` alone, without cache."""

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
    """Question and steps cut into tokens one by one, as TRL does, read at the last of them."""
    steps = [s if s.endswith("\n\n") else f"{s}\n\n" for s in steps]
    ids = [i for text in (f"{QUESTION}\n", *steps) for i in tokenizer().encode(text)]
    logits = loaded(path, AutoModelForTokenClassification)(torch.tensor([ids])).logits
    return ids, logits[0, -1].softmax(-1)[1].item()


def sequence_classifier(path: str, steps: Sequence[str]) -> tuple[list[int], float]:
    ids, _ = token_classifier(prms.trl(), steps)
    logits = loaded(path, AutoModelForSequenceClassification)(torch.tensor([ids])).logits[0]
    return ids, sigmoid(logits.item()) if len(logits) == 1 else logits.softmax(-1)[1].item()


def skywork(path: str, steps: Sequence[str]) -> tuple[list[int], float]:
    """`prepare_input`, every line a step, then the value head on the last hidden state."""
    cut = PreTrainedTokenizerFast.from_pretrained(path)
    ids = cut.encode(f"{cut.bos_token}{QUESTION}\n")
    for line in (line for step in steps for line in step.split("\n") if line):
        ids += [*cut.encode(line), cut.encode("\n")[-1]]
    weights = load_file(f"{path}/model.safetensors")
    state = {name.removeprefix("pretrained_model."): w for name, w in weights.items()}
    head = [state.pop(f"v_head.summary.{part}") for part in ("weight", "bias")]
    model = Qwen2ForCausalLM(Qwen2ForCausalLM.config_class.from_pretrained(path)).eval()
    model.load_state_dict(state)
    hidden = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1]
    return ids, sigmoid(torch.nn.functional.linear(hidden, *head)[0, -1, 0].item())


def qwen(path: str, steps: Sequence[str]) -> tuple[list[int], float]:
    """The card's conversation with `<extra_0>` after each step; probability of label 1 there."""
    cut = PreTrainedTokenizerFast.from_pretrained(path)
    text = cut.apply_chat_template(
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
    ids = cut.encode(text)
    marks = [i for i, token in enumerate(ids) if token == cut.encode("<extra_0>")[0]]
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
    """One turn a step, each answered with `+`; `+` against `-` where the last answer stands."""
    turns = []
    for i, step in enumerate(steps):
        said = f"{QUESTION} {step.strip()}" if i == 0 else step.strip()
        turns += [{"role": "user", "content": said}, {"role": "assistant", "content": "+"}]
    cut = tokenizer()
    ids = cut.apply_chat_template(turns, return_dict=True)["input_ids"]
    plus, minus = cut.encode("+")[-1], cut.encode("-")[-1]
    answer = len(ids) - 1 - ids[::-1].index(plus)
    logits = loaded(path)(torch.tensor([ids])).logits[0, answer - 1]
    return ids[:answer], logits[[plus, minus]].softmax(-1)[0].item()


def math_shepherd(path: str, steps: Sequence[str]) -> tuple[list[int], float]:
    """Steps on lines that end in ` ки`; ` +` against ` -` at the last of these."""
    cut = PreTrainedTokenizerFast.from_pretrained(path)
    lines = "\n".join(f"{step.strip()} ки" for step in steps)
    ids = cut.encode(f"{QUESTION} {lines}")
    good, bad = cut.encode("+ -")[1:]
    tags = [i for i, token in enumerate(ids) if token == cut.encode("ки")[-1]]
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
def test_a_step_is_scored_as_published_and_costs_its_own_tokens_and_tags(
    name: str, models: Models
) -> None:
    make, reference = FORMATS[name]
    path = make()
    scorer: StepScorer = load_scorer(path, name.partition(",")[0])
    read: list[int] = []
    values = []
    for i, step in enumerate(STEPS):
        with torch.no_grad():
            ids, wanted = reference(path, STEPS[: i + 1])
        call = models.scorer_call(scorer.request(QUESTION, PAST[:i], step))
        engine, request = call.engine, call.request
        reading = engine.submit(request).result()
        assert list(request.ids) == ids
        assert scorer.read(PAST[:i], reading).value == pytest.approx(wanted, abs=1e-4)
        values.append(round(wanted, 2))
        assert ids[: len(read)] == read
        assert reading.computed_tokens <= len(ids) - len(read)
        read = ids
    assert engine.backend == "slot"
    assert len(set(values)) > 1


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_prefix_with_another_step_reads_that_step_only(name: str, models: Models) -> None:
    path = FORMATS[name][0]()
    scorer = load_scorer(path, name.partition(",")[0])
    requests = [
        models.scorer_call(scorer.request(QUESTION, PAST, step))
        for step in (STEPS[2], "She has 8 apples.")
    ]
    engine, first, second = requests[0].engine, requests[0].request, requests[1].request
    engine.submit(first).result()
    call = models.scorer_call(scorer.request(QUESTION, PAST[:1], PAST[1].text))
    before = call.request
    tag = 9 if name == "rlhflow" else 0  # what stands between two turns
    assert engine.submit(second).result().computed_tokens <= len(second.ids) - len(before.ids) + tag
