"""The model: what it promises by construction, and what its losses learn."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import RobertaConfig, RobertaModel

from length_estimation.inputs import NUMBERS
from length_estimation.regressor import (
    MEDIAN,
    QUANTILE_LEVELS,
    LengthRegressor,
    keep_layers,
    pinball,
    rising,
    stretched,
)
from length_estimation.spread import fit_stretch

NUM_LEVELS = len(QUANTILE_LEVELS)


def small_encoder(num_layers: int = 2) -> RobertaModel:
    """A RoBERTa of a few thousand weights."""
    config = RobertaConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=num_layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
    )
    return RobertaModel(config, add_pooling_layer=False)


def small_regressor() -> LengthRegressor:
    torch.manual_seed(0)
    numbers = torch.zeros(len(NUMBERS)), torch.ones(len(NUMBERS))
    return LengthRegressor(small_encoder(), 16, 1, *numbers, dropout=0.0)


def inputs(num_questions: int) -> dict[str, torch.Tensor]:
    return {
        "input_ids": torch.randint(5, 50, (num_questions, 8)),
        "attention_mask": torch.ones(num_questions, 8, dtype=torch.long),
        "numbers": torch.zeros(num_questions, len(NUMBERS)),
        "model_ids": torch.ones(num_questions, dtype=torch.long),
    }


@given(st.lists(st.floats(-50, 50), min_size=NUM_LEVELS, max_size=NUM_LEVELS))
def test_quantiles_rise_whatever_the_head_says(raw: list[float]) -> None:
    """Quantiles are monotone by construction, and stretched ones as well."""
    log_quantiles = rising(torch.tensor([raw]))
    assert (log_quantiles.diff(dim=1) >= 0).all()
    assert (stretched(log_quantiles, torch.tensor([[0.5, 3.0]])).diff(dim=1) >= 0).all()


def test_pinball_loss_by_hand() -> None:
    """A truth above a quantile costs its level for each unit, one below the rest to 1."""
    levels = torch.tensor([0.1, 0.9])
    loss = pinball(torch.tensor([[4.0, 6.0]]), torch.tensor([5.0]), levels)
    assert float(loss) == pytest.approx((0.1 * 1 + 0.1 * 1) / 2)


def test_nothing_is_learnt_of_quantiles_beyond_the_cut() -> None:
    """An answer cut by max_tokens says only that it would have been at least so long."""
    regressor = small_regressor().eval()
    low = torch.full((3,), math.log(5))
    loss = regressor(**inputs(3), log_tokens=low, log_max_tokens=low)["loss"]
    uncut = regressor(**inputs(3), log_tokens=low)["loss"]
    # The quantiles all lie above the cut, so only the mean is still taught.
    assert float(loss.detach()) < float(uncut.detach())
    weights = regressor.head[-1].weight
    (gradient,) = torch.autograd.grad(loss, weights)
    away_from_median = [level for level in range(NUM_LEVELS) if level != MEDIAN]
    assert float(gradient[away_from_median].abs().max()) == 0.0


def test_it_learns_a_distribution() -> None:
    """Trained on draws from a log-normal distribution, its quantiles and mean become those."""
    regressor = small_regressor()
    rng = np.random.default_rng(0)
    optimizer = torch.optim.Adam(regressor.parameters(), lr=0.01)
    for _ in range(150):
        truth = torch.tensor(rng.normal(6.0, 0.5, 128), dtype=torch.float32)
        loss = regressor(**inputs(128), log_tokens=truth)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        answer = regressor.eval()(**inputs(64))
    median = answer["log_quantiles"][:, MEDIAN].mean()
    p90 = answer["log_quantiles"][:, QUANTILE_LEVELS.index(0.9)].mean()
    assert float(median) == pytest.approx(6.0, abs=0.1)
    assert float(p90 - median) == pytest.approx(1.2816 * 0.5, abs=0.12)
    assert float(answer["log_mean"].mean()) == pytest.approx(6.0 + 0.125, abs=0.1)


def test_names_of_unknown_models_and_padding_change_little_or_nothing() -> None:
    """Padding is not read; a question's estimate does not depend on its neighbours."""
    regressor = small_regressor().eval()
    one = inputs(1)
    padded = {name: tensor.clone() for name, tensor in one.items()}
    padded["input_ids"] = torch.nn.functional.pad(one["input_ids"], (0, 5), value=1)
    padded["attention_mask"] = torch.nn.functional.pad(one["attention_mask"], (0, 5))
    with torch.inference_mode():
        difference = regressor(**one)["log_quantiles"] - regressor(**padded)["log_quantiles"]
    assert float(difference.abs().max()) < 1e-4


def test_layers_are_cut() -> None:
    """The first layers stay; asking for more than there are names both numbers."""
    encoder = small_encoder(num_layers=3)
    keep_layers(encoder, 2)
    assert len(encoder.encoder.layer) == 2
    with pytest.raises(ValueError, match="from 1 to 2, got 5"):
        keep_layers(encoder, 5)


def test_spread_is_corrected_on_each_side_and_for_each_group() -> None:
    """Quantiles half as wide as the truth are stretched twofold, where they are too narrow."""
    rng = np.random.default_rng(0)
    normal = torch.distributions.Normal(0.0, 1.0)
    levels = torch.tensor(QUANTILE_LEVELS)
    num_questions = 4_000
    log_quantiles = (5.0 + 0.5 * normal.icdf(levels)).repeat(num_questions, 1)
    groups = torch.arange(num_questions) % 2
    draws = rng.normal(0.0, 1.0, num_questions)
    widths = np.where(groups.numpy() == 0, np.where(draws < 0, 0.5, 1.0), 0.5)
    truth = torch.tensor(5.0 + widths * draws, dtype=torch.float32)
    stretch = fit_stretch(log_quantiles, truth, groups, levels)
    assert stretch[0, 0] == pytest.approx(1.0, abs=0.12)
    assert stretch[0, 1] == pytest.approx(2.0, abs=0.2)
    assert stretch[1].tolist() == pytest.approx([1.0, 1.0], abs=0.12)
