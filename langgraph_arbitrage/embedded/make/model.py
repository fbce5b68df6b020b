"""A functional Llama forward pass for training, and the conversion to a Hugging Face model.

The weights of all layers are stacked, so that the optimizer updates whole stacks. The forward pass
uses plain tensor operations, so that ``torch.compile`` sees one graph. The tests compare its logits
with ``LlamaForCausalLM``.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from langgraph_arbitrage.embedded.make.tokenizer import CONTEXT

Weights = dict[str, Tensor]

ROPE_THETA = 10000.0
NORM_EPS = 1e-5

# Stack of weights → Hugging Face name of one layer's weight.
STACKS = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
    "norm1": "input_layernorm",
    "norm2": "post_attention_layernorm",
}


def config(width: int, layers: int, heads: int, vocab: int) -> LlamaConfig:
    """Config of a model with an MLP of three times the width and tied embeddings."""
    return LlamaConfig(
        vocab_size=vocab,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=NORM_EPS,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )


def initial(cfg: LlamaConfig, seed: int) -> Weights:
    """Draw initial weights. Output projections are zero, so each layer starts as the identity."""
    rng = torch.Generator().manual_seed(seed)
    d, f, n = cfg.hidden_size, cfg.intermediate_size, cfg.num_hidden_layers

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng) / math.sqrt(shape[-1])

    return {
        "embed": torch.randn(cfg.vocab_size, d, generator=rng) * 0.05,
        "q": normal(n, d, d),
        "k": normal(n, d, d),
        "v": normal(n, d, d),
        "o": torch.zeros(n, d, d),
        "gate": normal(n, f, d),
        "up": normal(n, f, d),
        "down": torch.zeros(n, d, f),
        "norm1": torch.ones(n, d),
        "norm2": torch.ones(n, d),
        "norm": torch.ones(d),
    }


def forward(w: Weights, ids: Tensor, positions: Tensor, mask: Tensor, heads: int) -> Tensor:
    """Compute the final hidden states.

    Args:
        w: Weights, in the dtype of the computation.
        ids: Token ids ``[B, S]``.
        positions: Position of each token within its text ``[B, S]``.
        mask: Additive attention mask ``[B, 1, S, S]``: 0, or a large negative number at masked
            positions.
        heads: Number of attention heads.

    Returns:
        Normalized hidden states ``[B, S, D]``. Their product with ``w["embed"]`` is the logits.
    """
    size = w["embed"].shape[1] // heads
    frequency = ROPE_THETA ** (-torch.arange(0, size, 2, dtype=torch.float32) / size)
    angle = positions[:, None, :, None].float() * frequency  # [B, 1, S, size / 2]
    angle = torch.cat([angle, angle], -1)
    cos, sin = angle.cos().to(w["q"].dtype), angle.sin().to(w["q"].dtype)
    x = F.embedding(ids, w["embed"])
    for layer in zip(*(w[name].unbind(0) for name in STACKS), strict=True):
        x = _layer(x, layer, cos, sin, mask, heads)
    return _norm(x, w["norm"])


# Compile only the layer, which takes seconds at any depth. Compiling the whole forward takes
# minutes.
@torch.compile(dynamic=False)
def _layer(
    x: Tensor, weights: tuple[Tensor, ...], cos: Tensor, sin: Tensor, mask: Tensor, heads: int
) -> Tensor:
    q, k, v, o, gate, up, down, norm1, norm2 = weights
    b, s, d = x.shape
    h = _norm(x, norm1)
    query, key, value = (
        F.linear(h, m).view(b, s, heads, d // heads).transpose(1, 2) for m in (q, k, v)
    )
    query, key = _rotate(query, cos, sin), _rotate(key, cos, sin)
    # On a CPU, these operations take 0.6 times as long, compiled, as PyTorch's
    # scaled_dot_product_attention.
    scores = query @ key.mT * (d // heads) ** -0.5 + mask  # [B, H, S, S]
    attended = scores.float().softmax(-1).to(x.dtype) @ value
    x = x + F.linear(attended.transpose(1, 2).reshape(b, s, d), o)
    h = _norm(x, norm2)
    return x + F.linear(F.silu(F.linear(h, gate)) * F.linear(h, up), down)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


def _norm(x: Tensor, weight: Tensor) -> Tensor:
    x32 = x.float()
    normed = x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + NORM_EPS)
    return normed.to(x.dtype) * weight


def grow(w: Weights, layers: int, seed: int) -> Weights:
    """Add layers up to ``layers``, spread evenly between the trained ones.

    The output projections of a new layer are zero, so the output of the model does not change.
    """
    fresh = initial(config(w["q"].shape[-1], layers, 1, w["embed"].shape[0]), seed)
    return {name: spread(w[name], fresh[name]) if name in STACKS else w[name] for name in w}


def spread(trained: Tensor, deeper: Tensor) -> Tensor:
    """Write the layers of ``trained`` into ``deeper``, in place and evenly spaced."""
    count, layers = trained.shape[0], deeper.shape[0]
    deeper[[(i + 1) * layers // count - 1 for i in range(count)]] = trained
    return deeper


def to_hugging_face(w: Weights, cfg: LlamaConfig) -> LlamaForCausalLM:
    """Convert the weights to a Hugging Face model (fp32)."""
    state = {
        "model.embed_tokens.weight": w["embed"],
        "lm_head.weight": w["embed"],
        "model.norm.weight": w["norm"],
    }
    for stack, name in STACKS.items():
        for i, layer in enumerate(w[stack]):
            state[f"model.layers.{i}.{name}.weight"] = layer
    model: LlamaForCausalLM = LlamaForCausalLM(cfg)
    model.load_state_dict({k: v.detach().float().clone() for k, v in state.items()})
    model.eval()
    return model
