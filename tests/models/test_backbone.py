"""Scores do not depend on how sequences are batched; the fallbacks are exact and said aloud."""

from __future__ import annotations

import copy
import logging
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from rmray.data.batch import build_batch
from rmray.data.group import TokenGroup, group_paths
from rmray.errors import ModelError
from rmray.models.attention import NotPackableError
from rmray.models.backbone import RewardBackbone
from rmray.models.heads import set_head_float32
from tests.models.architectures import ARCHITECTURES, VOCAB, Architecture, build
from tests.models.batches import gradient_distance, random_batch, random_groups

BY_NAME = {a.name: a for a in ARCHITECTURES}
QWEN3 = BY_NAME["qwen3"]


def paths_of(groups: list[TokenGroup]) -> list[list[int]]:
    return [g.path(k).tolist() for g in groups for k in range(g.num_completions)]


def alone(path: list[int]) -> TokenGroup:
    return group_paths([path], [1])


def plain_scores(architecture: Architecture, paths: list[list[int]], side: str) -> torch.Tensor:
    """scores_S of transformers alone, nothing of rmray: padded on one side to the longest."""
    longest = max(map(len, paths))
    ids, mask = [], []
    for path in paths:
        fill = [0] * (longest - len(path))
        ids.append(fill + path if side == "left" else path + fill)
        mask.append([0] * len(fill) + [1] * len(path) if side == "left" else [1] * len(path) + [0] * len(fill))
    mask_NL = torch.tensor(mask)
    positions = (mask_NL.cumsum(-1) - 1).clamp_min(0)
    with torch.no_grad():
        return build(architecture)(torch.tensor(ids), attention_mask=mask_NL, position_ids=positions).logits.squeeze(-1)


@pytest.fixture(scope="module")
def groups() -> list[TokenGroup]:
    return random_groups(VOCAB)


@pytest.mark.parametrize("name", ["qwen3", "gpt2", "mixtral"])
def test_a_sequence_scores_the_same_however_it_is_batched(name: str, groups: list[TokenGroup]) -> None:
    paths = paths_of(groups)
    backbone = RewardBackbone(build(BY_NAME[name]))
    assert backbone.packed
    with torch.no_grad():
        shared_S = backbone(build_batch(groups))
        ways = {
            "packed": backbone(build_batch([alone(p) for p in paths])),
            "alone": torch.cat([backbone(build_batch([alone(p)])) for p in paths]),
            "plain, alone": torch.cat([plain_scores(BY_NAME[name], [p], "right") for p in paths]),
            "plain, padded right": plain_scores(BY_NAME[name], paths, "right"),
            "plain, padded left": plain_scores(BY_NAME[name], paths, "left"),
            "rmray, padded": RewardBackbone(build(BY_NAME[name]), packed=False)(build_batch(groups)),
        }
    assert shared_S.dtype == torch.float32
    assert shared_S.shape == (len(paths),)
    for way, scores_S in ways.items():
        torch.testing.assert_close(scores_S, shared_S, atol=1e-5, rtol=0, msg=lambda m, way=way: f"{way}: {m}")


def test_the_gradient_does_not_depend_on_sharing(groups: list[TokenGroup]) -> None:
    shared, packed = RewardBackbone(build(QWEN3)), RewardBackbone(build(QWEN3))
    shared(build_batch(groups)).sigmoid().sum().backward()
    packed(build_batch([alone(p) for p in paths_of(groups)])).sigmoid().sum().backward()
    assert gradient_distance(shared, packed) <= 1e-5


@pytest.mark.parametrize("name", ["qwen3", "mixtral"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_last_feed_forward_sees_the_last_tokens_alone(
    name: str, checkpointing: bool, groups: list[TokenGroup]
) -> None:
    backbone, padded = RewardBackbone(build(BY_NAME[name])), RewardBackbone(build(BY_NAME[name]), packed=False)
    if checkpointing:
        backbone.train()
        backbone.model.gradient_checkpointing_enable({"use_reentrant": False})
    widths: list[int] = []
    for layer in backbone.model.base_model.layers:
        layer.mlp.register_forward_pre_hook(lambda mlp, args: widths.append(args[0].shape[1]))
    batch = build_batch(groups)
    backbone(batch).sigmoid().sum().backward()
    once = [batch.num_tokens] * (len(backbone.model.base_model.layers) - 1) + [batch.num_scores]
    assert widths == (once + once[::-1] if checkpointing else once)
    padded(batch).sigmoid().sum().backward()
    assert gradient_distance(backbone, padded) <= 1e-5
    with torch.no_grad(), backbone.plain_attention():
        states = backbone.model.base_model(batch.token_ids_T[None]).last_hidden_state
    assert widths[-1] == batch.num_tokens
    assert states.shape[1] == batch.num_tokens


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("between", ["another batch", "an evaluation", "a plain call"])
def test_what_is_forwarded_before_a_backward_leaves_no_mark_on_it(between: str, reentrant: bool) -> None:
    """Gradient checkpointing runs layers again in the backward pass: for the batch they ran for, not for the last."""
    backbone, padded = RewardBackbone(build(QWEN3)), RewardBackbone(build(QWEN3), packed=False)
    backbone.train()
    backbone.model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    backbone.model.enable_input_require_grads()  # the reentrant kind asks for it
    # As many tokens and scores, read at other places.
    first, second = (random_batch(VOCAB, [(12, lengths)]) for lengths in ((5, 9), (9, 5)))
    losses = [backbone(first).sigmoid().sum()]
    if between == "another batch":
        losses.append(backbone(second).sigmoid().sum())
    elif between == "an evaluation":
        with torch.no_grad():
            backbone(second)
    else:
        with torch.no_grad(), backbone.plain_attention():
            backbone.model.base_model(second.token_ids_T[None])
    sum(losses).backward()
    sum(padded(batch).sigmoid().sum() for batch in (first, second)[: len(losses)]).backward()
    assert gradient_distance(backbone, padded) <= 1e-5


def test_threads_do_not_disturb_each_other() -> None:
    backbone = RewardBackbone(build(QWEN3)).eval()
    batches = [random_batch(VOCAB, [(12, lengths)]) for lengths in ((5, 9), (9, 5), (3, 30, 8))]

    def score(i: int) -> torch.Tensor:
        with torch.inference_mode():
            return backbone(batches[i % 3])

    alone = [score(i) for i in range(3)]
    with ThreadPoolExecutor(3) as threads:
        for i, scores_S in enumerate(threads.map(score, range(120))):
            torch.testing.assert_close(scores_S, alone[i % 3], atol=1e-5, rtol=0)


def test_a_copy_scores_alike_and_a_model_is_not_wrapped_twice(groups: list[TokenGroup]) -> None:
    backbone, batch = RewardBackbone(build(QWEN3)), build_batch(groups)
    scores_S = backbone(batch)
    assert torch.equal(copy.deepcopy(backbone)(batch), scores_S)
    assert torch.equal(pickle.loads(pickle.dumps(backbone))(batch), scores_S)
    with pytest.raises(ModelError, match="already"):
        RewardBackbone(backbone.model)


def test_restarted_positions_without_our_attention_cut_completions_off() -> None:
    """transformers takes positions that restart for packed sequences of their own: the second completion loses its
    prompt without a word. The registered function without a mask function is what prevents it."""
    batch = random_batch(VOCAB, [(12, (5, 6))])
    plain = build(QWEN3)
    with torch.no_grad():
        states = plain.model(input_ids=batch.token_ids_T[None], position_ids=batch.positions_T[None]).last_hidden_state
        naive_S = plain.score(states[0, batch.readout_tokens_R]).squeeze(-1)
        right_S = RewardBackbone(build(QWEN3), packed=False)(batch)
        ours_S = RewardBackbone(build(QWEN3))(batch)
    assert abs(naive_S[0] - right_S[0]) <= 1e-5
    assert abs(naive_S[1] - right_S[1]) > 1e-2
    torch.testing.assert_close(ours_S, right_S, atol=1e-5, rtol=0)


def test_mean_pooling_reads_the_completion_alone(groups: list[TokenGroup]) -> None:
    backbone = RewardBackbone(build(QWEN3), pooling="mean")
    plain = build(QWEN3)
    with torch.no_grad():
        scores_S = backbone(build_batch(groups, pooling="mean"))
        padded_S = RewardBackbone(build(QWEN3), pooling="mean", packed=False)(build_batch(groups, pooling="mean"))
        expected = [
            plain.score(plain.model(torch.tensor([g.path(k).tolist()])).last_hidden_state[0, g.prompt_lens[k] :]).mean()
            for g in groups
            for k in range(g.num_completions)
        ]
    torch.testing.assert_close(scores_S, torch.stack(expected), atol=1e-5, rtol=0)
    torch.testing.assert_close(padded_S, scores_S, atol=1e-5, rtol=0)


def test_pooling_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(ModelError, match="first"):
        RewardBackbone(build(QWEN3), pooling="first")
    with pytest.raises(ModelError, match="`last` does not fit"):
        RewardBackbone(build(BY_NAME["bert"]), pooling="last")
    with pytest.raises(ValueError, match="unknown pooling"):
        RewardBackbone(build(QWEN3), pooling="median")


@pytest.mark.parametrize("name", ["qwen3", "mixtral", "bloom", "bert"])
def test_an_empty_batch_touches_every_parameter_with_zero(name: str) -> None:
    pooling = "first" if name == "bert" else "last"
    backbone = RewardBackbone(build(BY_NAME[name]), pooling=pooling)
    full = copy.deepcopy(backbone)
    scores_S = backbone(build_batch([], pooling=pooling))
    assert scores_S.shape == (0,)
    assert scores_S.dtype == torch.float32
    # A pairwise loss on no pair, as the step writes it.
    none_P = torch.zeros(0, dtype=torch.int64)
    loss = torch.nn.functional.softplus(-(scores_S[none_P] - scores_S[none_P])).sum()
    assert float(loss.detach()) == 0.0
    loss.backward()
    full(random_batch(VOCAB, pooling=pooling)).sum().backward()
    touched = {n for n, p in full.named_parameters() if p.grad is not None}
    assert touched == {n for n, p in backbone.named_parameters() if p.grad is not None}
    assert "model.score.weight" in touched or name == "bert"
    assert all(not p.grad.any() for p in backbone.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", ["mistral", "gemma3_text", "mixtral", "olmo3"])
def test_a_path_longer_than_the_sliding_window_is_padded(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "rmray")
    longest = random_batch(VOCAB)
    backbone = RewardBackbone(build(BY_NAME[name], sliding_window=10))
    reference = RewardBackbone(build(BY_NAME[name], sliding_window=10), packed=False)
    unlimited = RewardBackbone(build(BY_NAME[name], sliding_window=128))
    fits = random_batch(VOCAB, [(4, (6, 2)), (0, (9,))])
    with torch.no_grad():
        torch.testing.assert_close(backbone(fits), reference(fits), atol=1e-5, rtol=0)
        assert not caplog.records
        for _ in range(2):
            torch.testing.assert_close(backbone(longest), reference(longest), atol=1e-5, rtol=0)
        assert (backbone(longest) - unlimited(longest)).abs().max() > 1e-3, "the window must matter here"
        # The next batch is packed again.
        torch.testing.assert_close(backbone(fits), reference(fits), atol=1e-5, rtol=0)
    assert backbone.packed
    assert ["sliding window" in r.getMessage() for r in caplog.records] == [True]


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("window", [None, 10], ids=["packed", "padded"])
def test_gradient_checkpointing_changes_nothing(window: int | None, reentrant: bool) -> None:
    """The backward pass runs layers again, after the forward has put the attention function back."""
    batch = random_batch(VOCAB)
    plain, checkpointed = (RewardBackbone(build(BY_NAME["mistral"], sliding_window=window)) for _ in range(2))
    checkpointed.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    if reentrant:
        checkpointed.model.enable_input_require_grads()
    plain.train()
    checkpointed.train()
    plain(batch).sigmoid().sum().backward()
    checkpointed(batch).sigmoid().sum().backward()
    assert gradient_distance(checkpointed, plain) <= 1e-6


def test_the_head_is_float32_over_a_bfloat16_base() -> None:
    model = build(QWEN3).to(torch.bfloat16)
    set_head_float32(model)
    backbone = RewardBackbone(model)
    batch = random_batch(VOCAB)
    with torch.no_grad():
        scores_S = backbone(batch)
        states_RH = backbone.readout_states(batch)
    assert states_RH.dtype == torch.bfloat16
    assert scores_S.dtype == torch.float32
    expected_S = states_RH.double() @ model.score.weight[0].double()
    torch.testing.assert_close(scores_S.double(), expected_S, atol=1e-5, rtol=0)


def test_a_packed_model_answers_through_the_backbone_alone() -> None:
    backbone = RewardBackbone(build(QWEN3))
    ids = torch.tensor([[5, 6, 7]])
    with pytest.raises(NotPackableError, match="RewardBackbone"):
        backbone.model(ids)
    with backbone.plain_attention(), torch.no_grad():
        logits = backbone.model(ids, attention_mask=torch.ones_like(ids)).logits
    with torch.no_grad():
        torch.testing.assert_close(backbone(build_batch([alone([5, 6, 7])])), logits[0], atol=1e-5, rtol=0)
    assert "rmray" not in backbone.model.config.to_json_string()


def test_attention_that_turns_out_other_than_it_looked_falls_back_at_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "rmray")
    model = build(BY_NAME["gpt_oss"])
    model.config._attn_implementation = model.model.config._attn_implementation = "sdpa"
    backbone = RewardBackbone(model)
    assert backbone.packed
    with torch.no_grad():
        assert backbone(random_batch(VOCAB)).shape == (10,)
    assert not backbone.packed
    assert "s_aux" in backbone.packed_reason
    assert sum("s_aux" in r.getMessage() for r in caplog.records) == 1


def test_packed_that_was_asked_for_is_given_or_refused() -> None:
    assert RewardBackbone(build(QWEN3), packed=True).packed
    with pytest.raises(ModelError, match="packed"):
        RewardBackbone(build(BY_NAME["bloom"]), packed=True)
    off = RewardBackbone(build(QWEN3), packed=False)
    assert (off.packed, off.packed_reason) == (False, "turned off (packed: false)")


def test_attention_dropout_is_padded(caplog: pytest.LogCaptureFixture) -> None:
    backbone = RewardBackbone(build(QWEN3, attention_dropout=0.1))
    assert not backbone.packed
    assert "attention_dropout: 0.1" in backbone.packed_reason
