"""Keys and values of a decoder's layers, as a model's forward pass wants them (`past_key_values`)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

ROOM = 64  # columns added whenever a buffer is full, so that writing a token copies nothing

KeysValues = list[tuple[torch.Tensor, torch.Tensor]]  # per layer, [rows, heads, columns, dim] each


class NodeCache:
    """Keys and values of each layer. Every layer holds all columns: masks say which are seen."""

    def __init__(self, layers: KeysValues | None = None) -> None:
        self._layers = layers or []
        self._lengths = [keys.shape[2] for keys, _ in self._layers]

    @property
    def length(self) -> int:
        """Columns filled."""
        return self._lengths[0] if self._lengths else 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """The same, by the name that models call."""
        return self._lengths[layer_idx] if layer_idx < len(self._lengths) else 0

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *args: object,
        **kwargs: object,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add columns to a layer. Returns all of its keys and values."""
        if layer_idx == len(self._layers):
            self._layers.append((key_states, value_states))
            self._lengths.append(key_states.shape[2])
            return key_states, value_states
        start = self._lengths[layer_idx]
        stop = start + key_states.shape[2]
        keys, values = self._layers[layer_idx]
        if stop > keys.shape[2]:
            keys, values = _grown(keys, start, stop), _grown(values, start, stop)
            self._layers[layer_idx] = keys, values
        keys[:, :, start:stop] = key_states
        values[:, :, start:stop] = value_states
        self._lengths[layer_idx] = stop
        return keys[:, :, :stop], values[:, :, :stop]

    def keep_columns(self, columns: torch.Tensor) -> None:
        """Drop all columns but these, in ascending order, for every row. Those in place already are not copied."""
        places = torch.arange(len(columns), device=columns.device)
        moved = columns[columns != places]  # ascending, so once one is out of place all after it are
        start, stop = len(columns) - len(moved), len(columns)
        if len(moved):
            for keys, values in self._layers:
                keys[:, :, start:stop] = keys.index_select(2, moved)
                values[:, :, start:stop] = values.index_select(2, moved)
        self._lengths = [stop] * len(self._layers)

    def keep_rows(self, rows: torch.Tensor) -> None:
        """Drop all rows but these."""
        self._layers = [(k.index_select(0, rows), v.index_select(0, rows)) for k, v in self._layers]

    def from_column(self, start: int) -> KeysValues:
        """A copy of what stands from column `start` on."""
        return [
            (k[:, :, start:n].clone(), v[:, :, start:n].clone())
            for (k, v), n in zip(self._layers, self._lengths, strict=True)
        ]

    @classmethod
    def gathered(cls, parts: Sequence[KeysValues], columns: torch.Tensor) -> NodeCache:
        """Row i holds the columns `columns[i]` of the one row that `parts` make when laid end to end."""
        layers: KeysValues = []
        for layer in zip(*parts, strict=True):
            keys, values = (torch.cat(pieces, dim=2)[0] for pieces in zip(*layer, strict=True))
            layers.append(
                (
                    keys[:, columns].transpose(0, 1).contiguous(),
                    values[:, columns].transpose(0, 1).contiguous(),
                )
            )
        return cls(layers)


def _grown(buffer: torch.Tensor, used: int, columns: int) -> torch.Tensor:
    rows, heads, _, dim = buffer.shape
    larger = buffer.new_empty(rows, heads, columns + ROOM, dim)
    larger[:, :, :used] = buffer[:, :, :used]
    return larger
