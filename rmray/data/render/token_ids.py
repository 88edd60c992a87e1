"""Read what token ids say: their text piece by piece, whether a sequence has ended, where its steps end.

Called by `renderer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rmray.data.render.steps import find_steps, step_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TokenIdReader:
    """Reads the ids of one tokenizer. Holds no state that a call changes."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, eos_id: int) -> None:
        self._tokenizer, self._eos_id = tokenizer, eos_id

    def texts(self, ids: Sequence[int]) -> list[str]:
        """The text of ids, a piece for each. A token that ends inside a character gives an empty piece, and the next
        one the character."""
        context = start = 0
        pieces = []
        for end in range(1, len(ids) + 1):
            # The last whole piece before it for context: blanks may depend on what precedes.
            before, text = (str(self._tokenizer.decode(list(ids[context:n]))) for n in (start, end))
            piece = "" if text.endswith("\ufffd") and end < len(ids) else text[len(before) :]
            if piece:
                context, start = start, end
            pieces.append(piece)
        return pieces

    def ends(self, ids: Sequence[int]) -> bool:
        """Whether ids end with the EOS; white space behind it is what templates write between turns."""
        for token_id in reversed(ids):
            if token_id == self._eos_id:
                return True
            if str(self._tokenizer.decode([token_id])).strip():
                return False
        return False

    def find_steps(
        self, ids: list[int], prompt_len: int, separator: str, finished: bool
    ) -> tuple[list[int], tuple[int, ...]]:
        """The ids of a path, with the last separator where it lacked, and where the completion's steps end. Their text
        decides."""
        own = ids[prompt_len:]
        tail = own[self._ending(own) :] if finished else []
        own = own[: len(own) - len(tail)]
        pieces = self.texts(own)
        text = "".join(pieces)
        steps = find_steps(text, separator, finished=finished)
        if len(steps.text) > len(text):
            added = self._tokenizer.backend_tokenizer.encode(separator, add_special_tokens=False).ids
            own, pieces = own + added, [*pieces, *[""] * (len(added) - 1), separator]
        offsets, end = [], 0
        for piece in pieces:
            offsets.append((end, end := end + len(piece)))
        return [*ids[:prompt_len], *own, *tail], tuple(prompt_len + i for i in step_tokens(steps.ends, offsets))

    def _ending(self, ids: list[int]) -> int:
        """Where the EOS, and white space behind it, begins at the end of ids; their number where there is none."""
        if not self.ends(ids):
            return len(ids)
        return len(ids) - 1 - ids[::-1].index(self._eos_id)
