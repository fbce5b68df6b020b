"""What an engine is asked and what it answers: plain data, token ids in, token ids out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Expected", "Finish", "Grammar", "Reading", "Sampling", "Score", "Write", "Written"]

Finish = Literal["separator", "end", "stop", "length", "context", "settled"]
"""Why a step ended: its separator (or the close of a span), the end-of-answer token (or the end
of its grammar), a stop string, the token limit of the request, or the end of the context. Or it
has not: its proposal is settled, and the request wanted no more."""

Expected = Literal["no", "likely", "certain"]
"""Whether the next step will be asked for from where one ends."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; the default is greedy."""

    temperature: float = 0.0
    """0 takes the most probable token; above 0 divides the logits before sampling."""
    top_p: float = 1.0
    """Keep the smallest set of tokens whose probabilities reach this sum."""
    top_k: int = 0
    """Keep this many most probable tokens; 0 keeps all."""
    seed: int = 0
    """Seed of this request's own random stream, whatever else is in the batch."""


@dataclass(frozen=True)
class Grammar:
    """What an answer has to match, from its first token on."""

    lark: str
    """The grammar in llguidance's Lark syntax; JSON schemas stand in it as `%json {...}`."""
    start: int
    """Index in `Write.ids` at which the answer begins."""
    room: int
    """Most tokens until the end of the answer; near it the grammar is steered to close."""


@dataclass(frozen=True)
class Write:
    """Write on from `ids` up to a separator, a stop string, an end token or a limit."""

    ids: Sequence[int]
    """All token ids so far, prompt included; what is cached of them is not read again."""
    max_tokens: int
    """Most tokens to write."""
    separators: tuple[str, ...] = ()
    """A step ends once its own text holds one of these."""
    stop: tuple[str, ...] = ()
    """Strings that end the answer; they may begin in `tail`."""
    tail: str = ""
    """The last characters of the answer before this step, for stop strings that straddle."""
    sampling: Sampling = Sampling()
    spans: tuple[tuple[str, str], ...] = ()
    """Opening and closing texts of what is never cut (tool calls): a separator inside does not
    end the step, and the closing text does."""
    grammar: Grammar | None = None
    """What the answer has to match."""
    proposal: Sequence[int] = ()
    """What another model wrote from here: read in one forward and kept as far as this model would
    have written the same, which saves those decode steps and changes no token, sampled ones
    included. Not used under a grammar, nor by the plain engine."""
    pauses: bool = False
    """Answer once the proposal is settled (`settled`), though the step is not over."""
    begun: int = 0
    """So many of the last `ids` are the step's own, written for requests that paused: its ends are
    looked for in them too, and the random stream goes on behind them."""
    ahead: Expected = "no"
    """Whether the next step will be asked for from where this one ends. A likely one is begun
    before where nothing else needs the core, and given up when something else is asked for; a
    certain one is begun unless a request waits. Changes no token; what is written in vain is in no
    figures."""


@dataclass(frozen=True)
class Written:
    """A written step, or what a request added to a step that was begun."""

    ids: list[int]
    """The new token ids, an end token included."""
    logprobs: list[float]
    """Log-probability of each under the model itself (temperature 1, nothing cut off), in nats."""
    finish: Finish
    fed: int
    """Tokens that were fed through the model for this request."""
    cached: int
    """Tokens of the request that were found in the cache."""
    kept: int
    """Tokens of the request's proposal that were kept, and so not decoded one by one."""
    seconds: float
    """From the request's submission to its answer, waiting included."""
    spent: float = 0.0
    """Seconds of the forwards for it: of one that several rows shared, its share."""
    pace: float = 0.0
    """The same for each token that was decoded one by one; 0 where none was, or where the prompt
    was read in the same call."""


@dataclass(frozen=True)
class Score:
    """Read `ids` and report the model's judgement.

    A classifier answers with the logits of its labels at the last token. A causal LM
    answers with the log-probability and the entropy at each token from `start` on, or, where
    `choices` are named, with their logits as the next token after `ids`.
    """

    ids: Sequence[int]
    start: int = 1
    """First token that is scored (causal LM); at least 1, since token 0 has no context."""
    choices: tuple[int, ...] = ()
    """Token ids that are weighed against each other as the next one (causal LM)."""


@dataclass(frozen=True)
class Reading:
    """What a scorer found."""

    logits: list[float]
    """At the last token: one logit a label (classifier), or one a choice (causal LM)."""
    logprobs: list[float]
    """Causal LM: log-probability of each of `ids[start:]`, in nats; empty for a classifier."""
    entropies: list[float]
    """Causal LM: entropy of the distribution that each of `ids[start:]` was drawn from, in nats."""
    fed: int
    cached: int
    seconds: float
