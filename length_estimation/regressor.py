"""The model: a pre-trained encoder, a pooling of its tokens, and a head that gives a distribution.

Quantiles of the natural logarithm of the output tokens are monotone by construction: the median is
predicted directly, the others as positive steps away from it. They are trained with the pinball
loss (Koenker and Bassett 1978); where ``max_tokens`` may have cut the answer, with Powell's form of
it for censored data (1986), which learns nothing from a quantile beyond the cut.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from length_estimation.inputs import NUMBERS, UNKNOWN_MODEL

QUANTILE_LEVELS = (0.05, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 0.95)
MEDIAN = QUANTILE_LEVELS.index(0.5)
HIDDEN = 256
NUMBER_FEATURES, MODEL_FEATURES = 64, 16
SHARE_OF_UNKNOWN_MODELS = 0.1
"""Training hides the model's name this often, so that names it never saw get sound estimates."""
GROUPS, SIDES = ("first turn", "later turn"), ("below the median", "above it")
"""What has a spread of its own: see ``length_estimation.spread``."""
FIRST_MEDIAN = 5.4
"""Training starts from about 220 tokens."""
NARROW = 2.0
"""Training starts from steps between quantiles of softplus(-2), 0.13 in logarithms."""
LONGEST = 14.0
"""The largest logarithm, a million tokens: beyond it exponentials would overflow a loss."""
MEAN_WEIGHT = 0.1
MEAN_UNIT_TOKENS = 256.0


class LengthRegressor(nn.Module):
    """Gives the distribution of the number of output tokens.

    Args:
        encoder: a Hugging Face encoder; its output has ``last_hidden_state``.
        num_models: how many names of served models are known; ids count from 1.
        numbers_mean, numbers_std: (len(NUMBERS),), of the training data.
        dropout: in the head.
    """

    def __init__(
        self,
        encoder: nn.Module,
        hidden_size: int,
        num_models: int,
        numbers_mean: Tensor,
        numbers_std: Tensor,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.attention = nn.Linear(hidden_size, 1)
        self.numbers = nn.Linear(len(NUMBERS), NUMBER_FEATURES)
        self.models = nn.Embedding(num_models + 1, MODEL_FEATURES)
        self.head = nn.Sequential(
            nn.Linear(2 * hidden_size + NUMBER_FEATURES + MODEL_FEATURES, HIDDEN),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(HIDDEN, len(QUANTILE_LEVELS) + 1),
        )
        self.register_buffer("levels", torch.tensor(QUANTILE_LEVELS), persistent=False)
        self.register_buffer("numbers_mean", numbers_mean)
        self.register_buffer("stretch", torch.ones(len(GROUPS), len(SIDES)))
        # A number that never varied in training says nothing: it is not to say much in serving.
        self.register_buffer("numbers_scale", torch.where(numbers_std > 1e-6, 1 / numbers_std, 0))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        numbers: Tensor,
        model_ids: Tensor,
        log_tokens: Tensor | None = None,
        log_max_tokens: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Shapes as in ``length_estimation.inputs.Batch``.

        Returns:
            ``log_quantiles`` (questions, levels) and ``log_mean`` (questions,); with the true
            ``log_tokens`` (questions,) also the ``loss``.
        """
        if self.training:
            hidden = torch.rand(model_ids.shape, device=model_ids.device) < SHARE_OF_UNKNOWN_MODELS
            model_ids = torch.where(hidden, UNKNOWN_MODEL, model_ids)
        tokens = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        scaled = (numbers - self.numbers_mean) * self.numbers_scale
        features = [
            *self._pool(tokens.float(), attention_mask),
            functional.gelu(self.numbers(scaled)),
            self.models(model_ids),
        ]
        raw = self.head(torch.cat(features, dim=-1)).float()
        log_quantiles = stretched(rising(raw[:, :-1]), self.stretch[group_of(numbers)])
        log_mean = log_quantiles[:, MEDIAN] + raw[:, -1]
        answer = {"log_quantiles": log_quantiles, "log_mean": log_mean}
        if log_tokens is not None:
            answer["loss"] = self._loss(log_quantiles, log_mean, log_tokens, log_max_tokens)
        return answer

    def _pool(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens weighted by attention, and their plain mean: (questions, hidden) each."""
        is_token = mask.unsqueeze(-1)
        scores = self.attention(tokens).masked_fill(is_token == 0, -1e4)
        attended = (tokens * scores.softmax(dim=1)).sum(dim=1)
        return attended, (tokens * is_token).sum(dim=1) / is_token.sum(dim=1)

    def _loss(
        self, log_quantiles: Tensor, log_mean: Tensor, truth: Tensor, cut: Tensor | None
    ) -> Tensor:
        if cut is not None:
            log_quantiles = torch.minimum(log_quantiles, cut.unsqueeze(-1))
        return pinball(log_quantiles, truth, self.levels) + MEAN_WEIGHT * _deviance(log_mean, truth)


def rising(raw: Tensor) -> Tensor:
    """From free numbers (questions, levels) to quantiles that rise along the levels."""
    median = raw[:, MEDIAN : MEDIAN + 1] + FIRST_MEDIAN
    below = functional.softplus(raw[:, :MEDIAN] - NARROW).flip(1).cumsum(1).flip(1)
    above = functional.softplus(raw[:, MEDIAN + 1 :] - NARROW).cumsum(1)
    return torch.cat([median - below, median, median + above], dim=1).clamp(0.0, LONGEST)


def group_of(numbers: Tensor) -> Tensor:
    """The index in ``GROUPS`` of each question: (questions,)."""
    return (numbers[:, NUMBERS.index("log_earlier_answers")] > 0).long()


def stretched(log_quantiles: Tensor, stretch: Tensor) -> Tensor:
    """Move quantiles away from the median by factors (questions, 2) for below and above it."""
    median = log_quantiles[:, MEDIAN : MEDIAN + 1]
    away = log_quantiles - median
    below, above = stretch[:, :1], stretch[:, 1:]
    return (median + torch.where(away < 0, below * away, above * away)).clamp(0.0, LONGEST)


def pinball(quantiles: Tensor, truth: Tensor, levels: Tensor) -> Tensor:
    """The mean pinball loss of ``quantiles`` (questions, levels) for ``truth`` (questions,)."""
    over = truth.unsqueeze(-1) - quantiles
    return torch.maximum(levels * over, (levels - 1) * over).mean()


def _deviance(log_mean: Tensor, truth: Tensor) -> Tensor:
    """The mean's loss, least where it equals the expectation (Poisson's, without constants)."""
    log_unit = torch.log(torch.tensor(MEAN_UNIT_TOKENS, device=log_mean.device))
    scaled = log_mean.clamp(max=LONGEST) - log_unit
    return (scaled.exp() - (truth - log_unit).exp() * scaled).mean()


def keep_layers(encoder: nn.Module, num_layers: int) -> None:
    """Cut an encoder down to its first layers.

    Raises:
        ValueError: it does not have so many, or hides them.
    """
    total = int(encoder.config.num_hidden_layers)
    if not 1 <= num_layers <= total:
        raise ValueError(f"layers must be from 1 to {total}, got {num_layers}")
    for module in encoder.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == total:
                setattr(module, name, nn.ModuleList(_first(child, num_layers)))
                encoder.config.num_hidden_layers = num_layers
                return
    raise ValueError(f"{type(encoder).__name__} has no list of {total} layers to cut")


def _first(layers: nn.ModuleList, count: int) -> Sequence[nn.Module]:
    return list(layers)[:count]
