"""Triton kernels for channels-first memory: a thread owns a pixel and walks along its channels.

The last few values stay in registers, so every value is read once, apart from a few channels where chunks meet. Pixels
of all samples form one row of threads: neighbours in a warp read neighbours in memory, at any image size.

Sums are made anew from the window at every step. A running sum (add the new, subtract the old) would leave the rounding
of a large value behind after it has left.

The numbers of the formula are compile-time constants: float64 keeps them exact, and a network has one or two sets.
"""

# mypy: ignore-errors
# ruff: noqa: N803, RUF005
# Jitted functions are Triton's own language in Python's syntax: its values have no Python types, its compile-time
# constants are written in capitals, and it knows no starred tuple.

import triton
import triton.language as tl


@triton.jit
def inverse_power(z, BETA: tl.constexpr):
    """z ** -beta."""
    if BETA == 0.75:
        r = tl.rsqrt(z)
        p = r * tl.sqrt(r)
    elif BETA == 0.5:
        p = tl.rsqrt(z)
    elif BETA == 1.0:
        p = 1.0 / z
    else:
        p = tl.exp2(tl.log2(z) * (-BETA))
    return p


@triton.jit
def take(pointer, mask, WIDE: tl.constexpr, RELU: tl.constexpr):
    """Read values, widened, and rectified where asked: NaN stays NaN."""
    x = tl.load(pointer, mask=mask, other=0.0).to(WIDE)
    if RELU:
        x = tl.where(x < 0.0, 0.0, x)
    return x


@triton.jit
def sum_of(ring):
    total = ring[0]
    for i in tl.static_range(1, len(ring)):
        total += ring[i]
    return total


@triton.jit
def normaliser(ring, SCALE: tl.constexpr, K: tl.constexpr):
    """z = k + scale * energy of the values in the window."""
    energy = ring[0] * ring[0]
    for i in tl.static_range(1, len(ring)):
        energy += ring[i] * ring[i]
    return K + SCALE * energy


@triton.jit
def chunk_of(index, channels, GROUPS: tl.constexpr, CHUNK: tl.constexpr):
    """Return a chunk's first channel, and where its group begins and ends."""
    group_channels = channels // GROUPS
    chunks = tl.cdiv(group_channels, CHUNK)
    low = (index // chunks) * group_channels
    return low + (index % chunks) * CHUNK, low, low + group_channels


@triton.jit
def rolling_forward(
    x_ptr,
    y_ptr,
    total,  # pixels of all samples
    pixels,  # pixels of one sample
    channels,
    pixel_blocks,
    FRONT: tl.constexpr,
    BACK: tl.constexpr,
    SCALE: tl.constexpr,
    BETA: tl.constexpr,
    K: tl.constexpr,
    GROUPS: tl.constexpr,
    RELU: tl.constexpr,
    WIDE: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    pid = tl.program_id(0)
    pixel = (pid % pixel_blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < total
    sample = pixel // pixels
    offset = sample.to(tl.int64) * channels * pixels + (pixel - sample * pixels)
    first, low, high = chunk_of(pid // pixel_blocks, channels, GROUPS, CHUNK)

    x = x_ptr + offset
    y = y_ptr + offset
    ring = ()
    for i in tl.static_range(FRONT + BACK):
        c = first - FRONT + i
        ring = ring + (take(x + c.to(tl.int64) * pixels, inside & (c >= low) & (c < high), WIDE, RELU),)
    for i in tl.static_range(CHUNK):
        c = first + i
        new = take(x + (c + BACK).to(tl.int64) * pixels, inside & (c + BACK < high), WIDE, RELU)
        ring = ring + (new,)
        value = ring[FRONT] * inverse_power(normaliser(ring, SCALE, K), BETA)
        tl.store(y + c.to(tl.int64) * pixels, value.to(y_ptr.dtype.element_ty), mask=inside & (c < high))
        ring = ring[1:]


@triton.jit
def rolling_backward(
    g_ptr,
    x_ptr,
    winners_ptr,
    dx_ptr,
    total,
    pixels,
    channels,
    pixel_blocks,
    width,  # of the image, and below of the pooled one; not read without a pool
    pooled_height,
    pooled_width,
    FRONT: tl.constexpr,
    BACK: tl.constexpr,
    SCALE: tl.constexpr,
    BETA: tl.constexpr,
    K: tl.constexpr,
    GROUPS: tl.constexpr,
    RELU: tl.constexpr,
    WIDE: tl.constexpr,
    POOL: tl.constexpr,  # 0: the gradient is that of the normalised image itself
    STRIDE: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    pid = tl.program_id(0)
    pixel = (pid % pixel_blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < total
    sample = pixel // pixels
    place = pixel - sample * pixels
    offset = sample.to(tl.int64) * channels * pixels + place
    first, low, high = chunk_of(pid // pixel_blocks, channels, GROUPS, CHUNK)

    x = x_ptr + offset
    dx = dx_ptr + offset
    pooled_pixels = pooled_height * pooled_width
    pooled_offset = sample.to(tl.int64) * channels * pooled_pixels

    # x of channels c - FRONT .. c + BACK, w of c - FRONT - BACK .. c, u of c - FRONT .. c
    ring = ()
    weighted = ()
    direct = ()
    for i in tl.static_range(FRONT + BACK):
        c = first - FRONT - BACK + i
        ring = ring + (take(x + c.to(tl.int64) * pixels, inside & (c >= low) & (c < high), WIDE, RELU),)
    for i in tl.static_range(CHUNK + FRONT + BACK):
        c = first - BACK + i
        new = take(x + (c + BACK).to(tl.int64) * pixels, inside & (c + BACK < high), WIDE, RELU)
        ring = ring + (new,)
        exists = inside & (c >= low) & (c < high)
        if POOL == 0:
            g = tl.load(g_ptr + offset + c.to(tl.int64) * pixels, mask=exists, other=0.0).to(WIDE)
        else:
            g = unpooled(
                g_ptr + pooled_offset + c.to(tl.int64) * pooled_pixels,
                winners_ptr + pooled_offset + c.to(tl.int64) * pooled_pixels,
                place // width,
                place % width,
                exists,
                1,
                pooled_height,
                pooled_width,
                WIDE,
                POOL,
                STRIDE,
            )
        z = normaliser(ring, SCALE, K)
        u = g * inverse_power(z, BETA)
        weighted = weighted + (tl.where(exists, u * ring[FRONT] / z, 0.0),)
        direct = direct + (u,)
        if i >= FRONT + BACK:
            # Windows that hold channel c - FRONT are those of the channels whose w is at hand.
            h = ring[0]
            value = direct[0] - (2.0 * SCALE * BETA) * h * sum_of(weighted)
            if RELU:
                value = tl.where(h <= 0.0, 0.0, value)
            out = c - FRONT
            tl.store(dx + out.to(tl.int64) * pixels, value.to(dx_ptr.dtype.element_ty), mask=inside & (out < high))
            weighted = weighted[1:]
        if i >= FRONT:
            direct = direct[1:]
        ring = ring[1:]


@triton.jit
def unpooled(
    g_ptr,
    winners_ptr,
    row,
    column,
    inside,
    step,  # from one pooled pixel to the next in memory
    pooled_height,
    pooled_width,
    WIDE: tl.constexpr,
    POOL: tl.constexpr,
    STRIDE: tl.constexpr,
):
    """Gather the gradient of an image's value from the pool windows that chose it: no atomics, always one order."""
    reach: tl.constexpr = (POOL + STRIDE - 1) // STRIDE
    total = tl.zeros(inside.shape, WIDE)
    for i in tl.static_range(reach):
        for j in tl.static_range(reach):
            pooled_row = row // STRIDE - i
            pooled_column = column // STRIDE - j
            down = row - pooled_row * STRIDE
            across = column - pooled_column * STRIDE
            exists = inside & (pooled_row >= 0) & (pooled_row < pooled_height) & (down < POOL)
            exists = exists & (pooled_column >= 0) & (pooled_column < pooled_width) & (across < POOL)
            at = (pooled_row * pooled_width + pooled_column) * step
            winner = tl.load(winners_ptr + at, mask=exists, other=255).to(tl.int32)
            chosen = exists & (winner == down * POOL + across)
            total += tl.load(g_ptr + at, mask=chosen, other=0.0).to(WIDE)
    return total


@triton.jit
def rolling_pool_forward(
    x_ptr,
    y_ptr,
    winners_ptr,
    total,  # pooled pixels of all samples
    pixels,
    channels,
    pixel_blocks,
    width,
    pooled_height,
    pooled_width,
    FRONT: tl.constexpr,
    BACK: tl.constexpr,
    SCALE: tl.constexpr,
    BETA: tl.constexpr,
    K: tl.constexpr,
    GROUPS: tl.constexpr,
    WIDE: tl.constexpr,
    POOL: tl.constexpr,
    STRIDE: tl.constexpr,
    KEEP: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    pid = tl.program_id(0)
    pixel = (pid % pixel_blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < total
    pooled_pixels = pooled_height * pooled_width
    sample = pixel // pooled_pixels
    place = pixel - sample * pooled_pixels
    corner = (place // pooled_width) * STRIDE * width + (place % pooled_width) * STRIDE
    first, low, high = chunk_of(pid // pixel_blocks, channels, GROUPS, CHUNK)

    best = ()
    winner = ()
    for _i in tl.static_range(CHUNK):
        best = best + (tl.zeros([BLOCK], WIDE),)
        winner = winner + (tl.zeros([BLOCK], tl.int32),)
    # Window place by window place: only the best value of each channel waits in registers, not a ring for every place.
    # The loop runs at run time; unrolled, the compiler would fetch all places at once and fill twice the registers.
    for tap in range(POOL * POOL):
        x = x_ptr + sample.to(tl.int64) * channels * pixels + corner + (tap // POOL) * width + tap % POOL
        ring = ()
        for i in tl.static_range(FRONT + BACK):
            c = first - FRONT + i
            at = x + c.to(tl.int64) * pixels
            ring = ring + (take(at, inside & (c >= low) & (c < high), WIDE, True),)
        for i in tl.static_range(CHUNK):
            c = first + i + BACK
            ring = ring + (take(x + c.to(tl.int64) * pixels, inside & (c < high), WIDE, True),)
            value = ring[FRONT] * inverse_power(normaliser(ring, SCALE, K), BETA)
            # Ties are those of the output's own dtype, as when it is pooled from memory.
            value = value.to(y_ptr.dtype.element_ty).to(WIDE)
            ring = ring[1:]
            better = (value > best[i]) | (value != value) | (tap == 0)  # noqa: PLR0124  (true for NaN alone)
            best = best[:i] + (tl.where(better, value, best[i]),) + best[i + 1 :]
            winner = winner[:i] + (tl.where(better, tap, winner[i]),) + winner[i + 1 :]
    for i in tl.static_range(CHUNK):
        c = first + i
        out = (sample.to(tl.int64) * channels + c) * pooled_pixels + place
        tl.store(y_ptr + out, best[i].to(y_ptr.dtype.element_ty), mask=inside & (c < high))
        if KEEP:
            tl.store(winners_ptr + out, winner[i].to(tl.uint8), mask=inside & (c < high))
