"""Triton kernels for channels-first memory: a thread owns a pixel and walks along its channels.

The last few values stay in registers, so every value is read once, apart from a few channels where chunks meet. Pixels
of all samples form one row of threads: neighbours in a warp read neighbours in memory, at any image size.

Values are asked for some channels before their use. Stores come in between, and the compiler moves no read across a
store that might change it: left to itself it had one read under way for each thread, which cannot keep memory busy.

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

NOBODY = tl.constexpr(256)  # a place that no winner has, since it fits no byte


@triton.jit
def inverse_powers(z, BETA: tl.constexpr):
    """Return z ** -beta, and 1 / z, which comes almost free with it: a division is ten instructions."""
    if BETA == 0.75:
        r = tl.rsqrt(z)
        p = r * tl.sqrt(r)
        inverse = r * r
    elif BETA == 0.5:
        p = tl.rsqrt(z)
        inverse = p * p
    elif BETA == 1.0:
        p = 1.0 / z
        inverse = p
    else:
        p = tl.exp2(tl.log2(z) * (-BETA))
        inverse = 1.0 / z
    return p, inverse


@triton.jit
def widened(x, WIDE: tl.constexpr, RELU: tl.constexpr):
    """Return values as they are computed with, rectified where asked: NaN stays NaN."""
    x = x.to(WIDE)
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
def part_of(program, channels, GROUPS: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr):
    """Return a program's pixels, its chunk's first channel of all and of its group, and the group's channels.

    Programs of the same pixels run side by side: where their chunks meet, one finds in the cache what another has read.
    """
    group_channels = channels // GROUPS
    chunks = tl.cdiv(group_channels, CHUNK)
    pixel = (program // (chunks * GROUPS)) * BLOCK + tl.arange(0, BLOCK)
    chunk = program % (chunks * GROUPS)
    within = (chunk % chunks) * CHUNK
    return pixel, (chunk // chunks) * group_channels + within, within, group_channels


@triton.jit
def in_group(inside, within, i: tl.constexpr, group_channels, CHUNK: tl.constexpr, WHOLE: tl.constexpr):
    """Say where the channel i places after a chunk's first one is of its group: one question for many i, or none."""
    if i < -CHUNK:
        there = inside & (within + i >= 0)
    elif i < 0:
        there = inside & (within > 0)
    elif WHOLE and i < CHUNK:
        there = inside
    elif WHOLE and i < 2 * CHUNK:
        there = inside & (within + CHUNK < group_channels)
    else:
        there = inside & (within + i < group_channels)
    return there


@triton.jit
def ask(x, step, i: tl.constexpr, inside, within, group_channels, CHUNK: tl.constexpr, WHOLE: tl.constexpr):
    """Read the channel i places after a chunk's first one; zeros where there is none."""
    return tl.load(x + i * step, mask=in_group(inside, within, i, group_channels, CHUNK, WHOLE), other=0.0)


@triton.jit(do_not_specialize=["total"])  # another batch is the same kernel
def rolling_forward(
    x_ptr,
    y_ptr,
    total,  # pixels of all samples
    channels,
    pixels,  # pixels of one sample; known when compiled, it costs no address
    FRONT: tl.constexpr,
    BACK: tl.constexpr,
    SCALE: tl.constexpr,
    BETA: tl.constexpr,
    K: tl.constexpr,
    GROUPS: tl.constexpr,
    RELU: tl.constexpr,
    WIDE: tl.constexpr,
    CHUNK: tl.constexpr,
    WHOLE: tl.constexpr,  # whether every chunk is full
    AHEAD: tl.constexpr,  # how many channels before its use a value is asked for
    BLOCK: tl.constexpr,
):
    pixel, first, within, size = part_of(tl.program_id(0), channels, GROUPS, CHUNK, BLOCK)
    inside = pixel < total
    sample = pixel // pixels
    offset = sample.to(tl.int64) * channels * pixels + (pixel - sample * pixels)
    # Addresses count from the chunk's first channel: the rest is known when compiled, where the extent of an image is.
    x = x_ptr + offset + first.to(tl.int64) * pixels
    y = y_ptr + offset + first.to(tl.int64) * pixels
    step = tl.full([], pixels, tl.int64)

    ring = ()
    for i in tl.static_range(-FRONT, BACK):
        ring = ring + (widened(ask(x, step, i, inside, within, size, CHUNK, WHOLE), WIDE, RELU),)
    coming = ()
    for i in tl.static_range(BACK, BACK + AHEAD):
        coming = coming + (ask(x, step, i, inside, within, size, CHUNK, WHOLE),)
    for i in tl.static_range(CHUNK):
        if i + AHEAD < CHUNK:
            coming = coming + (ask(x, step, i + BACK + AHEAD, inside, within, size, CHUNK, WHOLE),)
        ring = ring + (widened(coming[0], WIDE, RELU),)
        coming = coming[1:]
        value = ring[FRONT] * inverse_powers(normaliser(ring, SCALE, K), BETA)[0]
        there = in_group(inside, within, i, size, CHUNK, WHOLE)
        tl.store(y + i * step, value.to(y_ptr.dtype.element_ty), mask=there)
        ring = ring[1:]


@triton.jit(do_not_specialize=["total"])  # another batch is the same kernel
def rolling_backward(
    g_ptr,
    x_ptr,
    winners_ptr,
    dx_ptr,
    total,
    channels,
    pixels,
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
    WHOLE: tl.constexpr,
    AHEAD: tl.constexpr,
    AHEAD_G: tl.constexpr,  # the same for gradients
    BLOCK: tl.constexpr,
):
    pixel, first, within, size = part_of(tl.program_id(0), channels, GROUPS, CHUNK, BLOCK)
    inside = pixel < total
    sample = pixel // pixels
    place = pixel - sample * pixels
    base = sample.to(tl.int64) * channels + first
    x = x_ptr + base * pixels + place
    dx = dx_ptr + base * pixels + place
    step = tl.full([], pixels, tl.int64)
    if POOL == 0:
        g = g_ptr + base * pixels + place
        winners = winners_ptr  # not read
        g_step = step
        windows = ()
    else:
        g_step = tl.full([], pooled_height * pooled_width, tl.int64)
        g = g_ptr + base * g_step
        winners = winners_ptr + base * g_step
        windows = windows_of(place // width, place % width, inside, 1, pooled_height, pooled_width, POOL, STRIDE)

    # x of channels c - FRONT .. c + BACK, w of c - FRONT - BACK .. c, u of c - FRONT .. c: c is i after the first
    ring = ()
    weighted = ()
    direct = ()
    for i in tl.static_range(-FRONT - BACK, 0):
        ring = ring + (widened(ask(x, step, i, inside, within, size, CHUNK, WHOLE), WIDE, RELU),)
    coming = ()
    coming_g = ()
    for i in tl.static_range(AHEAD):
        coming = coming + (ask(x, step, i, inside, within, size, CHUNK, WHOLE),)
    for i in tl.static_range(-BACK, AHEAD_G - BACK):
        coming_g = coming_g + (ask_back(g, winners, g_step, i, windows, inside, within, size, CHUNK, WHOLE, POOL),)
    for i in tl.static_range(-BACK, CHUNK + FRONT):
        if i + AHEAD < CHUNK + FRONT:
            coming = coming + (ask(x, step, i + BACK + AHEAD, inside, within, size, CHUNK, WHOLE),)
        if i + AHEAD_G < CHUNK + FRONT:
            coming_g = coming_g + (
                ask_back(g, winners, g_step, i + AHEAD_G, windows, inside, within, size, CHUNK, WHOLE, POOL),
            )
        ring = ring + (widened(coming[0], WIDE, RELU),)
        coming = coming[1:]
        p, inverse = inverse_powers(normaliser(ring, SCALE, K), BETA)
        u = unpooled(coming_g[0], windows, WIDE, POOL) * p
        coming_g = coming_g[1:]
        w = u * (ring[FRONT] * inverse)
        if i < 0 or i >= CHUNK or not WHOLE:  # a channel of another group, or none, has no say
            w = tl.where(in_group(inside, within, i, size, CHUNK, WHOLE), w, 0.0)
        weighted = weighted + (w,)
        direct = direct + (u,)
        if i >= FRONT:
            # Windows that hold channel i - FRONT are those of the channels whose w is at hand.
            h = ring[0]
            value = (direct[0] - (2.0 * SCALE * BETA) * h * sum_of(weighted)).to(dx_ptr.dtype.element_ty)
            if RELU:
                value = tl.where(h <= 0.0, 0.0, value)
            tl.store(dx + (i - FRONT) * step, value, mask=in_group(inside, within, i - FRONT, size, CHUNK, WHOLE))
            weighted = weighted[1:]
        if i + BACK >= FRONT:
            direct = direct[1:]
        ring = ring[1:]


@triton.jit
def windows_of(
    row,
    column,
    inside,
    step,  # from one pooled pixel to the next in memory
    pooled_height,
    pooled_width,
    POOL: tl.constexpr,
    STRIDE: tl.constexpr,
):
    """Find the pool windows that hold a pixel: whether each exists, where it is, and which of its places the pixel is.

    The same for every channel, so it is worked out once.
    """
    reach: tl.constexpr = (POOL + STRIDE - 1) // STRIDE
    found = ()
    for i in tl.static_range(reach):
        for j in tl.static_range(reach):
            pooled_row = row // STRIDE - i
            pooled_column = column // STRIDE - j
            down = row - pooled_row * STRIDE
            across = column - pooled_column * STRIDE
            exists = inside & (pooled_row >= 0) & (pooled_row < pooled_height) & (down < POOL)
            exists = exists & (pooled_column >= 0) & (pooled_column < pooled_width) & (across < POOL)
            at = (pooled_row * pooled_width + pooled_column) * step
            found = found + ((exists, at, tl.where(exists, down * POOL + across, NOBODY)),)
    return found


@triton.jit
def ask_back(
    g,
    winners,
    step,
    i: tl.constexpr,
    windows,
    inside,
    within,
    group_channels,
    CHUNK: tl.constexpr,
    WHOLE: tl.constexpr,
    POOL: tl.constexpr,
):
    """Read what comes back to the channel i places after a chunk's first one."""
    there = in_group(inside, within, i, group_channels, CHUNK, WHOLE)
    return gathered(g + i * step, winners + i * step, windows, there, WHOLE and i >= 0 and i < CHUNK, POOL)


@triton.jit
def gathered(g_ptr, winners_ptr, windows, exists, INNER: tl.constexpr, POOL: tl.constexpr):
    """Read the gradients of all windows that hold a pixel, and their winners; without a pool that of the pixel itself.

    The gradients do not wait for the winners: what comes for nothing lies in lines of the cache that come anyway.
    """
    if POOL == 0:
        found = tl.load(g_ptr, mask=exists, other=0.0)
    else:
        found = ()
        for i in tl.static_range(len(windows)):
            there, at, _place = windows[i]
            if not INNER:  # else whatever is a window's is also inside
                there = there & exists
            found = found + ((tl.load(g_ptr + at, mask=there), tl.load(winners_ptr + at, mask=there)),)
    return found


@triton.jit
def unpooled(found, windows, WIDE: tl.constexpr, POOL: tl.constexpr):
    """Add up the gradients of the windows that chose a pixel: no atomics, always one order."""
    if POOL == 0:
        total = found.to(WIDE)
    else:
        total = 0.0
        for i in tl.static_range(len(windows)):
            g, winner = found[i]
            total += tl.where(winner.to(tl.int32) == windows[i][2], g.to(WIDE), 0.0)
    return total


@triton.jit(do_not_specialize=["total"])  # another batch is the same kernel
def rolling_pool_forward(
    x_ptr,
    y_ptr,
    winners_ptr,
    total,  # pooled pixels of all samples
    channels,
    pixels,
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
    WHOLE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    pixel, first, within, size = part_of(tl.program_id(0), channels, GROUPS, CHUNK, BLOCK)
    inside = pixel < total
    pooled_pixels = pooled_height * pooled_width
    sample = pixel // pooled_pixels
    place = pixel - sample * pooled_pixels
    corner = (place // pooled_width) * STRIDE * width + (place % pooled_width) * STRIDE
    base = sample.to(tl.int64) * channels + first
    step = tl.full([], pixels, tl.int64)

    best = ()
    winner = ()
    for _i in tl.static_range(CHUNK):
        best = best + (tl.zeros([BLOCK], WIDE),)
        winner = winner + (tl.zeros([BLOCK], tl.int32),)
    # Window place by window place: only the best value of each channel waits in registers, not a ring for every place.
    # The loop runs at run time; unrolled, the compiler would fetch all places at once and fill twice the registers.
    for tap in range(POOL * POOL):
        x = x_ptr + base * pixels + corner + (tap // POOL) * width + tap % POOL
        ring = ()
        for i in tl.static_range(-FRONT, BACK):
            ring = ring + (widened(ask(x, step, i, inside, within, size, CHUNK, WHOLE), WIDE, True),)
        for i in tl.static_range(CHUNK):
            ring = ring + (widened(ask(x, step, i + BACK, inside, within, size, CHUNK, WHOLE), WIDE, True),)
            value = ring[FRONT] * inverse_powers(normaliser(ring, SCALE, K), BETA)[0]
            # Ties are those of the output's own dtype, as when it is pooled from memory.
            value = value.to(y_ptr.dtype.element_ty).to(WIDE)
            ring = ring[1:]
            better = (value > best[i]) | (value != value) | (tap == 0)  # noqa: PLR0124  (true for NaN alone)
            best = best[:i] + (tl.where(better, value, best[i]),) + best[i + 1 :]
            winner = winner[:i] + (tl.where(better, tap, winner[i]),) + winner[i + 1 :]
    pooled_step = tl.full([], pooled_height * pooled_width, tl.int64)
    out = base * pooled_step + place
    for i in tl.static_range(CHUNK):
        there = in_group(inside, within, i, size, CHUNK, WHOLE)
        tl.store(y_ptr + out + i * pooled_step, best[i].to(y_ptr.dtype.element_ty), mask=there)
        if KEEP:
            tl.store(winners_ptr + out + i * pooled_step, winner[i].to(tl.uint8), mask=there)
