"""Triton kernels for channels-first memory: one thread per pixel, which loops over the channels.

The last few values stay in registers, so every value is loaded once, apart from a few channels where chunks meet. The
pixels of all samples are numbered through: neighbouring threads load neighbouring addresses, at any image size.

Values are loaded some channels before their use. The compiler moves no load across a store that might change the value,
and with one load in flight for each thread, memory would be idle most of the time.

Window sums are computed anew at every step. A running sum (add the new value, subtract the old) would keep the rounding
error of a large value after that value has left the window.

The numbers of the formula are compile-time constants, which keeps them exact in float64; a network has one or two sets.
"""

# mypy: ignore-errors
# ruff: noqa: N803, RUF005
# Jitted functions are Triton's own language in Python's syntax: its values have no Python types, its compile-time
# constants are written in capitals, and it knows no starred tuple.

import triton
import triton.language as tl

NO_PLACE = tl.constexpr(256)  # not the place of any winner: places are bytes


@triton.jit
def inverse_powers(z, BETA: tl.constexpr):
    """Return z ** -beta, and 1 / z, which costs little here: a division takes ten instructions."""
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
    """Return x in the dtype of the computation, rectified if RELU; NaN stays NaN."""
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

    Programs of the same pixels have neighbouring ids, so the values that two chunks share are often in the cache.
    """
    group_channels = channels // GROUPS
    chunks = tl.cdiv(group_channels, CHUNK)
    pixel = (program // (chunks * GROUPS)) * BLOCK + tl.arange(0, BLOCK)
    chunk = program % (chunks * GROUPS)
    within = (chunk % chunks) * CHUNK
    return pixel, (chunk // chunks) * group_channels + within, within, group_channels


@triton.jit
def both(mask, condition):
    """Return the mask where a condition on the whole block holds, as a mask.

    Triton 3.9's interpreter makes integers of `mask & condition`, and then refuses them as a mask; the machine code of
    the comparison is none.
    """
    return (mask & condition) != 0


@triton.jit
def in_group(inside, within, i: tl.constexpr, group_channels, CHUNK: tl.constexpr, WHOLE: tl.constexpr):
    """Return the mask of the channel i places after a chunk's first: whether it belongs to the group."""
    if i < -CHUNK:
        mask = both(inside, within + i >= 0)
    elif i < 0:
        mask = both(inside, within > 0)
    elif WHOLE and i < CHUNK:
        mask = inside
    elif WHOLE and i < 2 * CHUNK:
        mask = both(inside, within + CHUNK < group_channels)
    else:
        mask = both(inside, within + i < group_channels)
    return mask


@triton.jit
def load_channel(x, step, i: tl.constexpr, inside, within, group_channels, CHUNK: tl.constexpr, WHOLE: tl.constexpr):
    """Load the channel i places after a chunk's first; zeros outside the group."""
    return tl.load(x + i * step, mask=in_group(inside, within, i, group_channels, CHUNK, WHOLE), other=0.0)


@triton.jit(do_not_specialize=["total"])  # another batch is the same kernel
def rolling_forward(
    x_ptr,
    y_ptr,
    total,  # pixels of all samples
    channels,
    pixels,  # pixels of one sample; as a constant, it costs no address computation
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
    AHEAD: tl.constexpr,  # how many channels before its use a value is loaded
    BLOCK: tl.constexpr,
):
    pixel, first, within, size = part_of(tl.program_id(0), channels, GROUPS, CHUNK, BLOCK)
    inside = pixel < total
    sample = pixel // pixels
    offset = sample.to(tl.int64) * channels * pixels + (pixel - sample * pixels)
    # Offsets from the chunk's first channel are constants where the extent of the image is one.
    x = x_ptr + offset + first.to(tl.int64) * pixels
    y = y_ptr + offset + first.to(tl.int64) * pixels
    step = tl.full([], pixels, tl.int64)

    ring = ()
    for i in tl.static_range(-FRONT, BACK):
        ring = ring + (widened(load_channel(x, step, i, inside, within, size, CHUNK, WHOLE), WIDE, RELU),)
    loaded = ()
    for i in tl.static_range(BACK, BACK + AHEAD):
        loaded = loaded + (load_channel(x, step, i, inside, within, size, CHUNK, WHOLE),)
    for i in tl.static_range(CHUNK):
        if i + AHEAD < CHUNK:
            loaded = loaded + (load_channel(x, step, i + BACK + AHEAD, inside, within, size, CHUNK, WHOLE),)
        ring = ring + (widened(loaded[0], WIDE, RELU),)
        loaded = loaded[1:]
        value = ring[FRONT] * inverse_powers(normaliser(ring, SCALE, K), BETA)[0]
        mask = in_group(inside, within, i, size, CHUNK, WHOLE)
        tl.store(y + i * step, value.to(y_ptr.dtype.element_ty), mask=mask)
        ring = ring[1:]


@triton.jit(do_not_specialize=["total"])  # another batch is the same kernel
def rolling_backward(  # noqa: C901  # branches on constants, decided when it compiles
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
        ring = ring + (widened(load_channel(x, step, i, inside, within, size, CHUNK, WHOLE), WIDE, RELU),)
    loaded = ()
    loaded_g = ()
    for i in tl.static_range(AHEAD):
        loaded = loaded + (load_channel(x, step, i, inside, within, size, CHUNK, WHOLE),)
    for i in tl.static_range(-BACK, AHEAD_G - BACK):
        loaded_g = loaded_g + (
            load_gradients(g, winners, g_step, i, windows, inside, within, size, CHUNK, WHOLE, POOL),
        )
    for i in tl.static_range(-BACK, CHUNK + FRONT):
        if i + AHEAD < CHUNK + FRONT:
            loaded = loaded + (load_channel(x, step, i + BACK + AHEAD, inside, within, size, CHUNK, WHOLE),)
        if i + AHEAD_G < CHUNK + FRONT:
            loaded_g = loaded_g + (
                load_gradients(g, winners, g_step, i + AHEAD_G, windows, inside, within, size, CHUNK, WHOLE, POOL),
            )
        ring = ring + (widened(loaded[0], WIDE, RELU),)
        loaded = loaded[1:]
        p, inverse = inverse_powers(normaliser(ring, SCALE, K), BETA)
        u = unpooled(loaded_g[0], windows, WIDE, POOL) * p
        loaded_g = loaded_g[1:]
        w = u * (ring[FRONT] * inverse)
        if i < 0 or i >= CHUNK or not WHOLE:  # channels outside the group do not count
            w = tl.where(in_group(inside, within, i, size, CHUNK, WHOLE), w, 0.0)
        weighted = weighted + (w,)
        direct = direct + (u,)
        if i >= FRONT:
            # The windows that hold channel i - FRONT are those of the channels in `weighted`.
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
    """Return the pool windows that hold a pixel: whether it exists, its offset, and the place of the pixel in it.

    They are the same for every channel.
    """
    reach: tl.constexpr = (POOL + STRIDE - 1) // STRIDE
    windows = ()
    for i in tl.static_range(reach):
        for j in tl.static_range(reach):
            pooled_row = row // STRIDE - i
            pooled_column = column // STRIDE - j
            down = row - pooled_row * STRIDE
            across = column - pooled_column * STRIDE
            exists = inside & (pooled_row >= 0) & (pooled_row < pooled_height) & (down < POOL)
            exists = exists & (pooled_column >= 0) & (pooled_column < pooled_width) & (across < POOL)
            at = (pooled_row * pooled_width + pooled_column) * step
            windows = windows + ((exists, at, tl.where(exists, down * POOL + across, NO_PLACE)),)
    return windows


@triton.jit
def load_gradients(
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
    """Load the gradient of the channel i places after a chunk's first."""
    mask = in_group(inside, within, i, group_channels, CHUNK, WHOLE)
    return gathered(g + i * step, winners + i * step, windows, mask, WHOLE and i >= 0 and i < CHUNK, POOL)


@triton.jit
def gathered(g_ptr, winners_ptr, windows, exists, INNER: tl.constexpr, POOL: tl.constexpr):
    """Load the gradients of all windows that hold a pixel, and their winners; without a pool that of the pixel itself.

    Gradients are loaded before it is known who won. The useless ones lie in cache lines that are loaded anyway.
    """
    if POOL == 0:
        gradients = tl.load(g_ptr, mask=exists, other=0.0)
    else:
        gradients = ()
        for i in tl.static_range(len(windows)):
            valid, at, _place = windows[i]
            if not INNER:  # else every window that exists is inside
                valid = valid & exists
            gradients = gradients + ((tl.load(g_ptr + at, mask=valid), tl.load(winners_ptr + at, mask=valid)),)
    return gradients


@triton.jit
def unpooled(gradients, windows, WIDE: tl.constexpr, POOL: tl.constexpr):
    """Sum the gradients of the windows whose winner is the pixel, always in the same order and without atomics."""
    if POOL == 0:
        total = gradients.to(WIDE)
    else:
        total = 0.0
        for i in tl.static_range(len(windows)):
            g, winner = gradients[i]
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
    # Place by place in the window: only the best value of a channel is kept in registers, not a ring for every place.
    # A loop at run time: unrolled, the compiler would load all places at once and need twice the registers.
    for tap in range(POOL * POOL):
        x = x_ptr + base * pixels + corner + (tap // POOL) * width + tap % POOL
        ring = ()
        for i in tl.static_range(-FRONT, BACK):
            ring = ring + (widened(load_channel(x, step, i, inside, within, size, CHUNK, WHOLE), WIDE, True),)
        for i in tl.static_range(CHUNK):
            ring = ring + (widened(load_channel(x, step, i + BACK, inside, within, size, CHUNK, WHOLE), WIDE, True),)
            value = ring[FRONT] * inverse_powers(normaliser(ring, SCALE, K), BETA)[0]
            # Compare in the output's dtype, so that ties are those of pooling from memory.
            value = value.to(y_ptr.dtype.element_ty).to(WIDE)
            ring = ring[1:]
            better = (value > best[i]) | (value != value) | (tap == 0)  # noqa: PLR0124  (true for NaN alone)
            best = best[:i] + (tl.where(better, value, best[i]),) + best[i + 1 :]
            winner = winner[:i] + (tl.where(better, tap, winner[i]),) + winner[i + 1 :]
    pooled_step = tl.full([], pooled_height * pooled_width, tl.int64)
    out = base * pooled_step + place
    for i in tl.static_range(CHUNK):
        mask = in_group(inside, within, i, size, CHUNK, WHOLE)
        tl.store(y_ptr + out + i * pooled_step, best[i].to(y_ptr.dtype.element_ty), mask=mask)
        if KEEP:
            tl.store(winners_ptr + out + i * pooled_step, winner[i].to(tl.uint8), mask=mask)
