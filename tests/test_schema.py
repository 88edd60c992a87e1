"""Results between a client and a replica of different versions of rmray."""

import pickle
from dataclasses import MISSING, fields

import pytest

from rmray.errors import RequestError
from rmray.schema import ScoreResult

RESULT = ScoreResult(
    raw=1.5,
    reward=0.5,
    quantile=0.7,
    model_version="v",
    reference="r",
    num_tokens=9,
    completion_tokens=4,
    truncated=True,
)
STATE = RESULT.__getstate__()


def result_of(state):
    result = object.__new__(ScoreResult)
    result.__setstate__(state)
    return result


def test_a_result_travels():
    assert pickle.loads(pickle.dumps(RESULT)) == RESULT


@pytest.mark.parametrize("num_fields", range(6, len(STATE)))
def test_fields_that_an_older_version_lacks_have_their_defaults(num_fields):
    old = result_of(STATE[:num_fields])
    for i, field in enumerate(fields(ScoreResult)):
        assert getattr(old, field.name) == (STATE[i] if i < num_fields else field.default)


def test_fields_that_only_a_newer_version_has_are_left_out():
    assert result_of((*STATE, "new", 3)) == RESULT


def test_what_lacks_a_score_is_said_to_be_of_another_version():
    with pytest.raises(RequestError, match=r"5 fields.*\n.*bring the client and the cluster to one version") as caught:
        result_of(STATE[:5])
    assert caught.value.code == "version_mismatch"


def test_new_fields_stand_behind_the_old_ones():
    """A state is told apart by its length alone: a field in the middle would put values under wrong names."""
    assert ", ".join(field.name for field in fields(ScoreResult)[:16]) == (
        "raw, reward, quantile, model_version, reference, num_tokens, completion_tokens, truncated, token_scores, "
        "prob_mean, prob_min, prob_product, first_error, step_labels, member_scores, disagreement"
    )
    assert all(field.default is not MISSING for field in fields(ScoreResult)[6:])
