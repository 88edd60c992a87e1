"""The backbone: one flat batch of T tokens in, S scores out, packed where that is exact and padded where not.

Called by the training step, by the bundle's scorer and by evaluation. Legend: T tokens, S scores, R read-out tokens,
N sequences (one path each; N = S where a completion has one score), L tokens of the longest path, H hidden width, C
classes of a step.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from rmray.data.batch import FlatBatch
from rmray.errors import ModelError
from rmray.models import guards
from rmray.models.attention import (
    CALL,
    PACKED_ATTENTION,
    NotPackableError,
    PlainCall,
    longest_path,
    plan_attention,
)
from rmray.models.heads import find_head
from rmray.models.last_layer import restrict_last_layer
from rmray.models.padded import one_token_batch, padded_inputs
from rmray.models.probe import check_packed
from rmray.models.scorer import ForwardTokens

__all__ = ["RewardBackbone", "check_packed"]

logger = logging.getLogger(__name__)


class RewardBackbone(nn.Module):
    """A transformers classifier, run on flat batches: of sequences with one label, or of tokens (see `heads.HEADS`).

    packed: "auto" takes the packed forward where the guards allow it and announces the padded one where they do not;
    True raises ModelError instead; False always pads. After construction `packed` (bool) says which one is taken and
    `packed_reason` why it is the padded one ("" where packed). A batch with a path longer than the model's sliding
    window is padded either way.
    pooling: the same that the batches are built with; a model with a classification head of its own is called whole and
    reads by its own rule. head_dropout: probability of dropout on what the head reads, while training.

    While `packed`, the wrapped model answers only through this module: called directly it raises NotPackableError, and
    inside `plain_attention()` it is plain transformers again.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        pooling: str = "last",
        packed: Literal["auto"] | bool = "auto",
        head_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        guards.check_pooling(model, pooling)
        if guards.text_config(model)._attn_implementation == PACKED_ATTENTION:
            raise ModelError(
                "the model is in a RewardBackbone already",
                where=type(model).__name__,
                next_step="copy.deepcopy the backbone, not its model",
            )
        self.model = model
        self.pooling = pooling
        self.packed = False
        self.packed_reason = ""
        self._forced = packed is True
        self._window = guards.sliding_window(model)
        self._window_announced = False
        self._plain_attention: str = guards.text_config(model)._attn_implementation
        self.has_score_head = guards.has_score_head(model)
        if packed is False:
            self.packed_reason = "turned off (packed: false)"
        elif reason := guards.packed_refusal(model):
            self.refuse_packed(reason)
        else:
            self.packed = True
            self._set_attention(PACKED_ATTENTION)
            restrict_last_layer(model)
        if head_dropout:
            # On the head itself, which both forwards and a model with a head of its own call alike.
            find_head(model)[1].register_forward_pre_hook(partial(_drop, head_dropout))

    def forward(self, batch: FlatBatch) -> torch.Tensor:
        """scores_S, or scores_SC where a step's score is one a class, float32, on the device of the model, in the order
        of the batch.

        A batch without scores gives an empty tensor that is still part of the graph: a one-token forward stands
        behind it, so that `scores_S.sum()` is a zero whose backward touches every parameter with an exact zero. A
        rank with nothing to do thus takes part in every collective.
        """
        if batch.num_scores == 0:
            # Encoder-decoders read their score at an EOS, and fail where there is none.
            config = guards.text_config(self.model)
            token_id = config.eos_token_id if config.is_encoder_decoder else self.pad_id
            return self._scores(one_token_batch(token_id, batch.token_ids_T.device))[:0]
        return self._scores(batch)

    def _scores(self, batch: FlatBatch) -> torch.Tensor:
        if not self.has_score_head:
            return self._padded_whole(batch)
        hidden_RH = self.readout_states(batch)
        token_scores_R: torch.Tensor = self.model.get_submodule("score")(hidden_RH).float()
        if self.pooling == "steps":
            return token_scores_R
        token_scores_R = token_scores_R.squeeze(-1)
        if self.pooling != "mean":
            return token_scores_R
        # The head is linear: the mean of the tokens' scores is the score of their mean.
        sums_S = token_scores_R.new_zeros(batch.num_scores).index_add(0, batch.readout_scores_R, token_scores_R)
        ones_R = torch.ones_like(token_scores_R)
        return sums_S / torch.zeros_like(sums_S).index_add(0, batch.readout_scores_R, ones_R)

    def token_scores(self, batch: FlatBatch) -> torch.Tensor:
        """The head at every read-out token [R], float32, by the padded forward. Needs `has_score_head`: a model with a
        classification head of its own reads whole paths."""
        token_scores_R: torch.Tensor = self.model.get_submodule("score")(self.padded_states(batch)).squeeze(-1).float()
        return token_scores_R

    def readout_states(self, batch: FlatBatch) -> torch.Tensor:
        """Last hidden states [R, H] of the read-out tokens, by the packed forward where it is exact."""
        if self.packed and not self._exceeds_window(batch):
            try:
                return self.packed_states(batch)
            except NotPackableError as refused:
                self.refuse_packed(refused.what)
        return self.padded_states(batch)

    def packed_states(self, batch: FlatBatch) -> torch.Tensor:
        """The same [R, H] by the packed forward; raises NotPackableError where an attention layer cannot be exact."""
        last = batch.readout_tokens_R if self.pooling == "last" else None  # `mean` may read a token for several paths
        call = plan_attention(batch.segments, batch.token_ids_T.device, last)
        states_1TH: torch.Tensor = self.model.base_model(
            input_ids=batch.token_ids_T[None],
            position_ids=batch.positions_T[None],
            use_cache=False,
            **{CALL: call},
        ).last_hidden_state
        return states_1TH[0].index_select(0, batch.readout_tokens_R)

    def padded_states(self, batch: FlatBatch) -> torch.Tensor:
        """The same [R, H] by plain transformers on padded rows: the reference and the fallback."""
        input_ids_NL, mask_NL = padded_inputs(batch, self.pad_id)
        # Gradient checkpointing runs layers again in the backward pass, outside plain_attention().
        extra: dict[str, Any] = {CALL: PlainCall(self._plain_attention)} if self.packed else {}
        with self.plain_attention():
            states_NLH: torch.Tensor = self.model.base_model(
                input_ids=input_ids_NL, attention_mask=mask_NL, use_cache=False, **extra
            ).last_hidden_state
        # Positions restart at the prefix's length, so a token's position is its column in its own path.
        return states_NLH[batch.readout_paths_R, batch.positions_T[batch.readout_tokens_R]]

    def _padded_whole(self, batch: FlatBatch) -> torch.Tensor:
        input_ids_NL, mask_NL = padded_inputs(batch, self.pad_id)
        logits_N1: torch.Tensor = self.model(input_ids=input_ids_NL, attention_mask=mask_NL).logits
        return logits_N1.squeeze(-1).float()

    @contextmanager
    def plain_attention(self) -> Iterator[None]:
        """Inside, the wrapped model is plain transformers: its own attention function and masks."""
        if not self.packed:
            yield
            return
        self._set_attention(self._plain_attention)
        try:
            yield
        finally:
            if self.packed:
                self._set_attention(PACKED_ATTENTION)

    @property
    def shares_prefixes(self) -> bool:
        """Whether what paths have in common is computed once, however long they are."""
        return self.packed and self._window is None

    def refuse_packed(self, reason: str) -> None:
        """Take the padded forward from now on, and say why. Raises ModelError where packed was asked for."""
        if self._forced:
            raise ModelError(
                "the packed forward was asked for but is not exact on this model",
                where=type(self.model).__name__,
                why=reason,
                next_step="set model.packed to auto or false",
            )
        if self.packed:
            self._set_attention(self._plain_attention)
        self.packed, self.packed_reason = False, reason
        logger.warning("%s takes the padded forward (same scores, more tokens): %s", type(self.model).__name__, reason)

    def forward_tokens(self, batch: FlatBatch) -> ForwardTokens:
        """What a forward of this batch computes, by the way it takes now."""
        if self.packed and self.has_score_head and not self._exceeds_window(batch):
            return ForwardTokens(batch.num_tokens)
        paths = [segment.prefix_len + length for segment in batch.segments for _, length in segment.suffixes]
        computed = len(paths) * max(paths, default=0)
        return ForwardTokens(computed, computed - sum(paths))

    def _exceeds_window(self, batch: FlatBatch) -> bool:
        exceeds = self._window is not None and longest_path(batch.segments) > self._window
        if exceeds and not self._window_announced:
            self._window_announced = True
            logger.warning(
                "%s: a path of %d tokens exceeds the sliding window of %d; batches like it take the padded forward",
                type(self.model).__name__,
                longest_path(batch.segments),
                self._window,
            )
        return exceeds

    def _set_attention(self, name: str) -> None:
        # Set on the configs: set_attn_implementation() would refuse models whose classes it does not know.
        for module in self.model.modules():
            if isinstance(module, PreTrainedModel):
                module.config._attn_implementation = name

    @property
    def pad_id(self) -> int:
        """What fills padded rows; their attention mask hides it."""
        pad_id = guards.text_config(self.model).pad_token_id
        return 0 if pad_id is None else int(pad_id)


def _drop(probability: float, head: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    hidden, *others = args
    return nn.functional.dropout(hidden, probability, head.training), *others
