"""A binary heap of int64 keys in an array; the caller holds its size."""

from __future__ import annotations

from predictor.simulator.kernel.compiled import inlined
from predictor.simulator.kernel.layout import Ints


@inlined
def push(heap: Ints, size: int, key: int) -> int:
    """Add a key; the new size."""
    place = size
    while place > 0:
        parent = (place - 1) >> 1
        if heap[parent] <= key:
            break
        heap[place] = heap[parent]
        place = parent
    heap[place] = key
    return size + 1


@inlined
def pop(heap: Ints, size: int) -> int:
    """Remove the smallest key, ``heap[0]``, of a heap that is not empty; the new size."""
    size -= 1
    key = heap[size]
    place = 0
    child = 1
    while child < size:
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= key:
            break
        heap[place] = heap[child]
        place = child
        child = 2 * place + 1
    heap[place] = key
    return size
