"""One emulated server: an engine, and what turns requests into sequences for it."""

from __future__ import annotations

import random
import secrets
import time
from pathlib import Path

from exp.emulator.answers import make_answer
from exp.emulator.bodies import GenerationBody, max_output_tokens
from exp.emulator.engine import Engine, StepTimer
from exp.emulator.errors import BadRequestError, ModelNotFoundError
from exp.emulator.export import SnapshotExporter
from exp.emulator.generation import Generation
from exp.emulator.metrics import EngineMetrics
from exp.emulator.options import EmulatorOptions
from exp.emulator.tokens import (
    TOKEN_BYTES,
    Encoder,
    EstimatingEncoder,
    TokenizerEncoder,
    count_tokens,
    hash_blocks,
)
from predictor.simulator.scheduler import Scheduler
from predictor.simulator.sequence import Sequence
from predictor.step_time.roofline import RooflineStepTime
from predictor.vllm_plugin.publisher import SnapshotPublisher


class EmulatedServer:
    """Owns the engine, and the publisher of its snapshots."""

    def __init__(self, options: EmulatorOptions, publisher: SnapshotPublisher) -> None:
        self.options = options
        self._publisher = publisher
        self.model_name = options.model.model_name
        self.encoder = make_encoder(options.tokenizer)
        scheduler = Scheduler(options.limits())
        self.metrics = EngineMetrics(self.model_name, scheduler)
        rng = random.Random(f"{options.seed}/{options.engine_id}")
        step_time = RooflineStepTime(options.model, options.gpu)
        timer = StepTimer(step_time, rng, options.noise, options.speed)
        exporter = SnapshotExporter(
            options.engine_id, self.model_name, scheduler, publisher.publish
        )
        self.engine = Engine(scheduler, timer, self.metrics, exporter)

    def check(self, body: GenerationBody) -> None:
        """Refuse what this server does not serve.

        Raises:
            ModelNotFoundError: another model is asked for.
            BadRequestError: a priority is given without the priority policy.
        """
        if body.model is not None and body.model != self.model_name:
            raise ModelNotFoundError(body.model)
        if body.priority != 0 and self.options.scheduling_policy != "priority":
            raise BadRequestError(
                f"Got priority {body.priority} but Priority scheduling is not enabled.", "priority"
            )

    def start(
        self, id_stem: str, tokens: bytes, limit: int | None, body: GenerationBody
    ) -> Generation:
        """Queue a request; its engine id is ``id_stem`` and eight random hex digits, as in vLLM.

        Raises:
            BadRequestError: the prompt is too long or the token limit out of range.
        """
        model = self.options.model
        max_tokens = max_output_tokens(limit, tokens, model.max_model_len)
        told = body.answer()
        answer = make_answer(
            tokens,
            self.options.seed,
            max_tokens,
            body.ignore_eos,
            body.stop_strings(),
            len(told) // TOKEN_BYTES or None,
        )
        seq = Sequence(
            request_id=f"{id_stem}-{secrets.token_hex(4)}",
            num_prompt_tokens=count_tokens(tokens),
            max_tokens=max_tokens,
            output_length=answer.length,
            priority=body.priority,
            arrival_time=time.time(),
            block_hashes=hash_blocks(tokens + told, model.block_size),
        )
        generation = Generation(seq, answer, time.monotonic(), wants_each_token=bool(body.stream))
        self.engine.submit(generation)
        return generation

    def abort(self, generation: Generation) -> None:
        """Give up a request whose client has gone."""
        self.engine.abort(generation.seq.request_id)

    def close(self) -> None:
        """Take the snapshot back and stop serving it."""
        self._publisher.close()


def make_encoder(tokenizer: Path | None) -> Encoder:
    """A real tokenizer if its file is given, else the estimate."""
    return EstimatingEncoder() if tokenizer is None else TokenizerEncoder(tokenizer)
