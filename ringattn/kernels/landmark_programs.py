"""The Triton programs behind `ringattn.kernels.landmark_triton`, which says what they compute. Importing this needs
triton.

A program owns some rows (forward, gradient of the query) or one key block (gradients of key and value) of one head.
A tile of keys is a whole block, its landmark among them: one product gives the scores of both. Key blocks up to `past`
of a row's block are read through their landmarks; `own` names the row's own block, or is -1.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _dot(a, b, UPCAST: tl.constexpr):
    # Triton's interpreter multiplies bf16 wrongly.
    if UPCAST:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def _load(x, batch, head, row, inside, stride_b, stride_h, stride_s, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Rows of x [B, H, S, D] -> [rows, BLOCK_D], 0 where not inside."""
    d = tl.arange(0, BLOCK_D)
    place = x + batch * stride_b + head * stride_h + row.to(tl.int64)[:, None] * stride_s + d[None, :]
    return tl.load(place, mask=inside[:, None] & (d < D)[None, :], other=0.0)


@triton.jit
def _store(x, values, batch, head, row, inside, heads, length, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """[rows, BLOCK_D] into rows of a contiguous x [B, H, S, D]."""
    d = tl.arange(0, BLOCK_D)
    place = x + (((batch * heads + head) * length + row.to(tl.int64)) * D)[:, None] + d[None, :]
    tl.store(place, values, mask=inside[:, None] & (d < D)[None, :])


@triton.jit
def _inner(scores, j, BLOCK: tl.constexpr):
    """The landmark's score of each row, and the softmax over the scores of its block's ordinary tokens."""
    landmark = tl.sum(tl.where((j == BLOCK)[None, :], scores, 0.0), axis=1)
    tokens = tl.where((j < BLOCK)[None, :], scores, float("-inf"))
    p = tl.exp(tokens - tl.max(tokens, axis=1)[:, None])
    return landmark, p / tl.sum(p, axis=1)[:, None]


@triton.jit
def forward_program(
    query, key, value, out, lse, past, own, scale, rows, keys, query_heads, group,
    query_b, query_h, query_s, key_b, key_h, key_s, value_b, value_h, value_s,
    D: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, BLOCK_D: tl.constexpr,
    UPCAST: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0) * ROWS
    batch = (tl.program_id(1) // query_heads).to(tl.int64)
    head = tl.program_id(1) % query_heads
    stride: tl.constexpr = BLOCK + 1
    row = first + tl.arange(0, ROWS)
    valid = row < rows
    j = tl.arange(0, KEYS)
    of_row = tl.load(past + row // stride, mask=valid, other=0)
    last = tl.minimum(first + ROWS, rows) - 1
    q = _load(query, batch, head, row, valid, query_b, query_h, query_s, D, BLOCK_D)
    largest = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    sums = tl.zeros([ROWS, BLOCK_D], tl.float32)
    for block in range(0, tl.load(past + last // stride)):
        position = block * stride + j
        k = _load(key, batch, head // group, position, j < stride, key_b, key_h, key_s, D, BLOCK_D)
        v = _load(value, batch, head // group, position, j < BLOCK, value_b, value_h, value_s, D, BLOCK_D)
        landmark, p = _inner(_dot(q, tl.trans(k), UPCAST) * scale, j, BLOCK)
        landmark = tl.where(block < of_row, landmark, float("-inf"))
        new = tl.maximum(largest, landmark)
        shift = tl.where(new == float("-inf"), 0.0, new)
        share = tl.exp(landmark - shift)
        before = tl.exp(largest - shift)
        total = total * before + share
        sums = sums * before[:, None] + _dot((p * share[:, None]).to(v.dtype), v, UPCAST)
        largest = new
    for row_block in range(first // stride, last // stride + 1):
        block = tl.load(own + row_block)
        if block >= 0:
            position = block * stride + j
            inside = (j < BLOCK) & (position < keys)
            k = _load(key, batch, head // group, position, inside, key_b, key_h, key_s, D, BLOCK_D)
            v = _load(value, batch, head // group, position, inside, value_b, value_h, value_s, D, BLOCK_D)
            scores = _dot(q, tl.trans(k), UPCAST) * scale
            read = (row // stride == row_block)[:, None] & (j[None, :] <= (row % stride)[:, None]) & inside[None, :]
            scores = tl.where(read, scores, float("-inf"))
            new = tl.maximum(largest, tl.max(scores, axis=1))
            shift = tl.where(new == float("-inf"), 0.0, new)
            weights = tl.exp(scores - shift[:, None])
            before = tl.exp(largest - shift)
            total = total * before + tl.sum(weights, axis=1)
            sums = sums * before[:, None] + _dot(weights.to(v.dtype), v, UPCAST)
            largest = new
    total = tl.where(valid, total, 1.0)
    _store(out, sums / total[:, None], batch, head, row, valid, query_heads, rows, D, BLOCK_D)
    place = (batch * query_heads + head) * rows + row
    tl.store(lse + place, largest + tl.log(total), mask=valid)


@triton.jit
def query_program(
    grad_out, query, key, value, lse, delta, grad_query, past, own, scale, rows, keys, query_heads, group,
    grad_b, grad_h, grad_s, query_b, query_h, query_s, key_b, key_h, key_s, value_b, value_h, value_s,
    D: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, BLOCK_D: tl.constexpr,
    UPCAST: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0) * ROWS
    batch = (tl.program_id(1) // query_heads).to(tl.int64)
    head = tl.program_id(1) % query_heads
    stride: tl.constexpr = BLOCK + 1
    row = first + tl.arange(0, ROWS)
    valid = row < rows
    j = tl.arange(0, KEYS)
    of_row = tl.load(past + row // stride, mask=valid, other=0)
    last = tl.minimum(first + ROWS, rows) - 1
    q = _load(query, batch, head, row, valid, query_b, query_h, query_s, D, BLOCK_D)
    g = _load(grad_out, batch, head, row, valid, grad_b, grad_h, grad_s, D, BLOCK_D)
    place = (batch * query_heads + head) * rows + row
    whole = tl.load(lse + place, mask=valid, other=0.0)
    slope = tl.load(delta + place, mask=valid, other=0.0)
    found = tl.zeros([ROWS, BLOCK_D], tl.float32)
    for block in range(0, tl.load(past + last // stride)):
        position = block * stride + j
        k = _load(key, batch, head // group, position, j < stride, key_b, key_h, key_s, D, BLOCK_D)
        v = _load(value, batch, head // group, position, j < BLOCK, value_b, value_h, value_s, D, BLOCK_D)
        landmark, p = _inner(_dot(q, tl.trans(k), UPCAST) * scale, j, BLOCK)
        share = tl.exp(tl.where(block < of_row, landmark, float("-inf")) - whole)
        grads = _dot(g, tl.trans(v), UPCAST)
        mean = tl.sum(p * grads, axis=1)
        slopes = p * share[:, None] * (grads - mean[:, None])
        slopes = tl.where((j == BLOCK)[None, :], (share * (mean - slope))[:, None], slopes)
        found += _dot(slopes.to(k.dtype), k, UPCAST)
    for row_block in range(first // stride, last // stride + 1):
        block = tl.load(own + row_block)
        if block >= 0:
            position = block * stride + j
            inside = (j < BLOCK) & (position < keys)
            k = _load(key, batch, head // group, position, inside, key_b, key_h, key_s, D, BLOCK_D)
            v = _load(value, batch, head // group, position, inside, value_b, value_h, value_s, D, BLOCK_D)
            read = (row // stride == row_block)[:, None] & (j[None, :] <= (row % stride)[:, None]) & inside[None, :]
            scores = tl.where(read, _dot(q, tl.trans(k), UPCAST) * scale, float("-inf"))
            weights = tl.exp(scores - whole[:, None])
            slopes = weights * (_dot(g, tl.trans(v), UPCAST) - slope[:, None])
            found += _dot(slopes.to(k.dtype), k, UPCAST)
    _store(grad_query, found * scale, batch, head, row, valid, query_heads, rows, D, BLOCK_D)


@triton.jit
def key_program(
    grad_out, query, key, value, lse, delta, grad_key, grad_value, past, reader, own_row, scale, rows, keys, key_heads,
    group,
    grad_b, grad_h, grad_s, query_b, query_h, query_s, key_b, key_h, key_s, value_b, value_h, value_s,
    D: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, BLOCK_D: tl.constexpr,
    UPCAST: tl.constexpr,
):  # fmt: skip
    """reader: of each key block, the first row that reads it through its landmark; own_row: the first row of the same
    block, or -1."""
    block = tl.program_id(0)
    batch = (tl.program_id(1) // key_heads).to(tl.int64)
    key_head = tl.program_id(1) % key_heads
    stride: tl.constexpr = BLOCK + 1
    j = tl.arange(0, KEYS)
    position = block * stride + j
    present = (j < stride) & (position < keys)
    token = (j < BLOCK) & (position < keys)
    k = _load(key, batch, key_head, position, present, key_b, key_h, key_s, D, BLOCK_D)
    v = _load(value, batch, key_head, position, token, value_b, value_h, value_s, D, BLOCK_D)
    of_key = tl.zeros([KEYS, BLOCK_D], tl.float32)
    of_value = tl.zeros([KEYS, BLOCK_D], tl.float32)
    begin = tl.load(reader + block)
    own = tl.load(own_row + block)
    for member in range(0, group):
        head = key_head * group + member
        for first in range(begin, rows, ROWS):
            row = first + tl.arange(0, ROWS)
            valid = row < rows
            q = _load(query, batch, head, row, valid, query_b, query_h, query_s, D, BLOCK_D)
            g = _load(grad_out, batch, head, row, valid, grad_b, grad_h, grad_s, D, BLOCK_D)
            place = (batch * key_heads * group + head) * rows + row
            whole = tl.load(lse + place, mask=valid, other=0.0)
            slope = tl.load(delta + place, mask=valid, other=0.0)
            landmark, p = _inner(_dot(q, tl.trans(k), UPCAST) * scale, j, BLOCK)
            share = tl.exp(tl.where(valid, landmark, float("-inf")) - whole)
            weights = p * share[:, None]
            grads = _dot(g, tl.trans(v), UPCAST)
            mean = tl.sum(p * grads, axis=1)
            slopes = weights * (grads - mean[:, None])
            slopes = tl.where((j == BLOCK)[None, :], (share * (mean - slope))[:, None], slopes)
            of_key += _dot(tl.trans(slopes.to(q.dtype)), q, UPCAST)
            of_value += _dot(tl.trans(weights.to(g.dtype)), g, UPCAST)
        if own >= 0:
            for first in range(0, stride, ROWS):
                offset = first + tl.arange(0, ROWS)
                row = own + offset
                valid = (offset < stride) & (row < rows)
                q = _load(query, batch, head, row, valid, query_b, query_h, query_s, D, BLOCK_D)
                g = _load(grad_out, batch, head, row, valid, grad_b, grad_h, grad_s, D, BLOCK_D)
                place = (batch * key_heads * group + head) * rows + row
                whole = tl.load(lse + place, mask=valid, other=0.0)
                slope = tl.load(delta + place, mask=valid, other=0.0)
                read = valid[:, None] & (j[None, :] <= offset[:, None]) & token[None, :]
                scores = tl.where(read, _dot(q, tl.trans(k), UPCAST) * scale, float("-inf"))
                weights = tl.exp(scores - whole[:, None])
                slopes = weights * (_dot(g, tl.trans(v), UPCAST) - slope[:, None])
                of_key += _dot(tl.trans(slopes.to(q.dtype)), q, UPCAST)
                of_value += _dot(tl.trans(weights.to(g.dtype)), g, UPCAST)
    _store(grad_key, of_key * scale, batch, key_head, position, present, key_heads, keys, D, BLOCK_D)
    _store(grad_value, of_value, batch, key_head, position, present, key_heads, keys, D, BLOCK_D)
