"""DropBlock: dropout of whole squares of a feature map."""

import math

import keras
from keras import layers, ops

from saunet import fused
from saunet.errors import InputError


@keras.saving.register_keras_serializable("saunet")
class DropBlock2D(layers.Layer):
    """Drops square blocks of each channel's map during training.

    Source: Ghiasi, Lin, Le, "DropBlock: A regularization method for
    convolutional networks", NeurIPS 2018, https://arxiv.org/abs/1810.12890.

    A block may start at any place where all of it fits, independently per image
    and per channel (SA-UNet's code sets `sync_channels=False`), with probability

        gamma = rate / block_size**2 * H * W / ((H - b + 1) * (W - b + 1)).

    What is kept is scaled by `size / kept` over the whole batch tensor.
    The layer is the identity at inference and for `rate=0`.

    Blocks are rare (gamma is about 0.003), so the layer does not draw one number
    per pixel. It draws the gaps between blocks, which are geometric for a
    Bernoulli process: the same distribution at a hundredth of the draws. The
    blocks are grown on integers that hold one bit per channel, and one product
    spreads four bits over four bytes.

    One seed gives the same masks in eager mode and in a graph. Under XLA
    (`jit_compile=True`, Keras's default on a GPU) it gives others: Keras leaves the
    algorithm of a draw to TensorFlow, which is Philox, and another one under XLA.
    Each way repeats itself exactly. On several devices of TensorFlow's
    `MirroredStrategy` each one's first image has the same masks, and so on: they
    mirror the layer's generator.

    Args:
        rate: Float in [0, 1), the share of a map to drop: `1 - keep_prob`.
            SA-UNet's "keep .82" on DRIVE is `rate=0.18`.
        block_size: Integer >= 1, side of a block in pixels of this map.
        seed: Integer, or `None` for a random one. The layer owns its generator.

    Input and output shape: `(N, H, W, C)`, channels last, any H and W of at
    least `block_size`; H and W may be unknown until run time.

    Raises:
        ValueError: `rate` or `block_size` out of range, an unknown number of channels,
            or a map (where its size is known) smaller than a block.
    """

    def __init__(self, rate, block_size=7, *, seed=None, **kwargs):
        super().__init__(**kwargs)
        if not 0 <= rate < 1:
            raise ValueError(
                f"`rate` is the dropped share, in [0, 1). Received: {rate}. "
                "For a keep probability p pass `rate=1 - p`."
            )
        if not isinstance(block_size, int) or block_size < 1:
            raise ValueError(f"`block_size` must be an integer >= 1, not {block_size}.")
        self.rate = rate
        self.block_size = block_size
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.supports_masking = True
        self.input_spec = layers.InputSpec(ndim=4)

    def build(self, input_shape):
        if self.rate:
            self._check_fits(input_shape[1:3])
        if input_shape[-1] is None:
            raise ValueError("DropBlock2D needs to know the number of channels.")
        self.built = True

    def call(self, inputs, training=False):
        if not training or not self.rate:
            return inputs
        # Under `jit_compile` and in eager mode the size is known only now.
        self._check_fits(inputs.shape[1:3])
        n, height, width, _ = ops.shape(inputs)
        channels = inputs.shape[-1]
        bits = bits_per_word(channels)
        words = channels // bits
        seeds = self._draw_seeds(n, height, width, words, bits)
        fuse = fused.can_fuse(inputs)
        size = ops.size(inputs)
        if fuse:
            dropped, kept = _masks_in_one_loop(seeds, self.block_size, bits)
            number = size - fused.count_bits(dropped)
        else:
            _, kept = masks(seeds, self.block_size, bits)
            # The sum of four bytes of 0 or 1 is the highest byte of one product.
            number = ops.sum(ops.right_shift(kept * 0x01010101, 24))
        kept = ops.reshape(ops.view(kept, "uint8")[..., :bits], ops.shape(inputs))
        scale = ops.cast(size, "float32")
        scale = ops.cast(
            scale / ops.cast(ops.maximum(number, 1), "float32"), inputs.dtype
        )
        if fuse:
            return fused.drop(inputs, kept, ops.cast(scale, "float32"))
        return inputs * (ops.cast(kept, inputs.dtype) * scale)

    def _check_fits(self, sides):
        if any(side is not None and side < self.block_size for side in sides):
            raise InputError(
                f"a {tuple(sides)} map cannot hold a block of side {self.block_size} "
                f"(layer '{self.name}'): lower `block_size` or feed a larger image"
            )

    def _draw_seeds(self, n, height, width, words, bits):
        """Draws where blocks start, as bits of `(n, H-b+1, W-b+1, words)` int32."""
        rows, columns = height - self.block_size + 1, width - self.block_size + 1
        places = n * rows * columns * words * bits
        share = self.rate / self.block_size**2
        # The same float32 operations whether the size is known or not: one gap that
        # is rounded otherwise would move all blocks after it.
        gamma = share * ops.cast(height * width, "float32")
        gamma = gamma / ops.cast(rows * columns, "float32")
        # Six standard deviations above the expected number of blocks.
        expected = share * _float(n * height * width * words * bits)
        draws = _integer(expected + 6 * expected**0.5 + 16)
        if not isinstance(draws, int):
            # A size known only at run time cannot raise here: make the draw fail,
            # under a name that the backend's message then shows.
            fits = ops.logical_and(rows > 0, columns > 0)
            draws = ops.where(fits, draws, -1)
        # 1 - uniform lies in (0, 1]: its logarithm is finite.
        with keras.name_scope(f"a_map_is_smaller_than_block_size_{self.block_size}"):
            uniform = 1 - keras.random.uniform(
                (draws,), dtype="float32", seed=self.seed_generator
            )
        gaps = ops.floor(ops.log(uniform) / ops.log1p(-gamma))
        # Integers, since float32 cannot count the 45 million places of a batch.
        # A gap beyond the last place is cut, lest the sum overflow.
        gaps = ops.cast(ops.minimum(gaps, _float(places)), "int32") + 1
        position = ops.cumsum(gaps) - 1
        inside = ops.logical_and(position >= 0, position < places)
        # Drawn places beyond the end add 0 to word 0.
        inside = ops.cast(inside, "int32")
        word = ops.right_shift(position, bits.bit_length() - 1) * inside
        bit = ops.left_shift(1, bit_of(position & (bits - 1))) * inside
        seeds = ops.segment_sum(
            bit, word, num_segments=n * rows * columns * words, sorted=False
        )
        return ops.reshape(seeds, (n, rows, columns, words))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "rate": self.rate,
            "block_size": self.block_size,
            "seed": self.seed,
        }


def bits_per_word(channels):
    """Returns how many share an integer: the largest power of two that fits, to 16."""
    return min(channels & -channels, 16)


def bit_of(channel):
    """Returns the place in a word of its channels 0 to 15: four to a byte."""
    # 8 for each byte before, and the place in it
    return 2 * channel - (channel & 3)


def masks(seeds, block_size, bits):
    """Returns what is dropped and what is kept.

    Args:
        seeds: `(N, H-b+1, W-b+1, words)` int32, a bit for each block's top left.
        block_size: Side b of a block.
        bits: Integer up to 16, channels a word.

    Returns:
        `(N, H, W, words)` int32, a bit for each dropped pixel, and
        `(N, H, W, words, ceil(bits / 4))` int32, a byte of 1 for each kept one.
    """
    blocks = grow_blocks(seeds, block_size)
    every = sum(1 << bit_of(channel) for channel in range(bits))
    return blocks, unpack(ops.bitwise_xor(blocks, every), bits)


_masks_in_one_loop = fused.one_loop(masks)


def unpack(words, bits):
    """Gives each channel of a word a byte of its own.

    Four bits times 1 + 2**7 + 2**14 + 2**21 puts bit i at i, i + 7, i + 14 and
    i + 21, without a carry: one of them is 8 i.

    Args:
        words: `(..., words)` int32.
        bits: Integer up to 16, channels a word.

    Returns:
        `(..., words, ceil(bits / 4))` int32, each of four bytes of 0 or 1, lowest
        first.
    """
    quarters = ops.view(words[..., None], "uint8")[..., : -(-bits // 4)]
    return ops.bitwise_and(ops.cast(quarters, "int32") * 0x00204081, 0x01010101)


def grow_blocks(seeds, block_size):
    """Grows each set bit into a square by OR, rows first, then columns.

    Args:
        seeds: `(N, H-b+1, W-b+1, words)` int32, a bit for each block's top left.
        block_size: Side b of a block.

    Returns:
        `(N, H, W, words)` int32, a bit for each dropped pixel.
    """
    margin = block_size - 1
    grown = ops.pad(seeds, [[0, 0], [margin, margin], [margin, margin], [0, 0]])
    for axis in (1, 2):
        reach = 1
        while reach < block_size:
            # Doubling: three ORs cover 7 pixels.
            step = min(reach, block_size - reach)
            grown = ops.bitwise_or(
                grown[:, :-step] if axis == 1 else grown[:, :, :-step],
                grown[:, step:] if axis == 1 else grown[:, :, step:],
            )
            reach += step
    return grown


def _float(value):
    return float(value) if isinstance(value, int) else ops.cast(value, "float32")


def _integer(value):
    return math.ceil(value) if isinstance(value, float) else ops.cast(value, "int32")
