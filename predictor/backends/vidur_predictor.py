"""Stock Vidur's native execution-time predictor, fed with tables instead of trained models."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from typing import Any

from vidur.config import (
    CacheConfig,
    RandomForrestExecutionTimePredictorConfig,
    ReplicaConfig,
)
from vidur.config.device_sku_config import BaseDeviceSKUConfig
from vidur.config.model_config import BaseModelConfig
from vidur.config.node_sku_config import BaseNodeSKUConfig
from vidur.execution_time_predictor.random_forrest_execution_time_predictor import (
    RandomForrestExecutionTimePredictor,
)
from vidur.types import ActivationType, DeviceSKUType, NormType

from predictor.step_time.vidur_tables import VidurTables
from wire.model_config import ModelConfig

_UNBOUNDED_MEMORY_GB = 10**6  # blocks come from the engine, not from Vidur's memory planner


@dataclass
class UnitReplicaConfig(ReplicaConfig):  # type: ignore[misc]
    """A replica of any model; stock Vidur only takes models and devices from its own lists.

    Pipeline stages are one after another for a batch, so that they are one long stage here.
    """

    model: ModelConfig | None = None

    def __post_init__(self) -> None:
        """Fill what the stock class looks up by name."""
        assert self.model is not None
        model = self.model
        self.world_size = self.tensor_parallel_size
        self.model_config = _vidur_model(model)
        self.device_config = BaseDeviceSKUConfig(
            fp16_tflops=0, total_memory_gb=_UNBOUNDED_MEMORY_GB
        )
        self.node_config = BaseNodeSKUConfig(num_devices_per_node=self.tensor_parallel_size)
        self._num_layers_per_pipeline_stage = model.num_layers
        self._attention_head_dim = model.head_dim
        self._q_heads_per_tensor_parallel_worker = (
            model.num_attention_heads // self.tensor_parallel_size
        )
        self._kv_heads_per_tensor_parallel_worker = math.ceil(
            model.num_kv_heads / self.tensor_parallel_size
        )


class TablePredictor(RandomForrestExecutionTimePredictor):  # type: ignore[misc]
    """Vidur's predictor with given tables; neither network nor training."""

    def __init__(self, tables: VidurTables, replica: UnitReplicaConfig) -> None:
        """Hand the tables to the native predictor."""
        self._tables = tables
        config = RandomForrestExecutionTimePredictorConfig(
            kv_cache_prediction_granularity=tables.kv_granularity,
            # The tables hold whole times. Native code adds this to models without GQA as well.
            attention_decode_batching_overhead_fraction=0.0,
            use_native_execution_time_predictor=True,
            cache_dir=tempfile.gettempdir(),
        )
        super().__init__(config, replica, CacheConfig(block_size=tables.limits.block_size))

    def _load_predictions_from_hf(self) -> dict[str, dict[tuple[int, ...], float]]:
        return self._tables.operators

    def step_s(self, batch: Any) -> float:
        """Seconds that a Vidur ``Batch`` takes; IndexError when a table lacks its key."""
        return float(self.get_execution_time_native(batch, 0).total_time)


def replica_config(model: ModelConfig) -> UnitReplicaConfig:
    """Vidur's description of a unit that serves this model."""
    return UnitReplicaConfig(
        model_name=model.model_name,
        num_pipeline_stages=1,
        tensor_parallel_size=model.tensor_parallel_size,
        device=str(DeviceSKUType.A100),
        model=model,
    )


def _vidur_model(model: ModelConfig) -> BaseModelConfig:
    return BaseModelConfig(
        num_layers=model.num_layers,
        num_q_heads=model.num_attention_heads,
        num_kv_heads=model.num_kv_heads,
        embedding_dim=model.hidden_size,
        mlp_hidden_dim=model.intermediate_size,
        max_model_len=model.max_model_len,
        use_gated_mlp=True,
        use_bias=False,
        use_qkv_bias=False,
        activation=ActivationType.SILU,
        norm=NormType.RMS_NORM,
        post_attn_norm=True,
        vocab_size=model.vocab_size,
    )
