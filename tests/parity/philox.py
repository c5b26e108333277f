"""Independent Python of src/core/random.h and src/data/sample_stream.h, for tests that recompute a run.

Written from the documented layout and from Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011); it
shares no code with the C++.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

PURPOSES = {
    "noise": 1,
    "timestep": 2,
    "posterior": 3,
    "caption_dropout": 4,
    "caption_template": 5,
    "sample_order": 6,
    "bucket_order": 7,
    "weight_init": 8,
    "dropout": 9,
    "validation_noise": 10,
    "initial_latent": 11,
    "sampler_noise": 12,
    "subset": 13,
    "timestep_stratum": 14,
    "noise_offset": 15,
    "caption_tags": 16,
    "tag_dropout": 17,
    "dataset_weight": 20,
}

MASK32 = 0xFFFFFFFF
MASK64 = 0xFFFFFFFFFFFFFFFF
MULTIPLIERS = np.array([0xD2511F53, 0xCD9E8D57], dtype=np.uint64)
WEYL = (0x9E3779B9, 0xBB67AE85)


def philox4x32(key, counters):
    """Ten rounds. key: two 32-bit words; counters: (n, 4) integers -> (n, 4) uint64 below 2^32."""
    c0, c1, c2, c3 = np.asarray(counters, dtype=np.uint64).T
    k0, k1 = key
    low = np.uint64(MASK32)
    high = np.uint64(32)
    for _ in range(10):
        product0 = c0 * MULTIPLIERS[0]
        product1 = c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (product1 >> high) ^ c1 ^ np.uint64(k0),
            product1 & low,
            (product0 >> high) ^ c3 ^ np.uint64(k1),
            product0 & low,
        )
        k0 = (k0 + WEYL[0]) & MASK32
        k1 = (k1 + WEYL[1]) & MASK32
    return np.stack([c0, c1, c2, c3], axis=1)


@dataclass(frozen=True)
class Stream:
    """One stream of random words: a pure function of its fields. `purpose` is a name in PURPOSES."""

    seed: int
    purpose: str
    dataset: int = 0
    draw: int = 0

    def words(self, count, start=0):
        """Words start .. start + count - 1 as uint64 below 2^32."""
        first = start // 4
        blocks = np.arange(first, (start + count + 3) // 4, dtype=np.uint64)
        counters = np.empty((len(blocks), 4), dtype=np.uint64)
        counters[:, 0] = blocks
        counters[:, 1] = PURPOSES[self.purpose] << 24 | self.dataset
        counters[:, 2] = self.draw & MASK32
        counters[:, 3] = self.draw >> 32
        words = philox4x32((self.seed & MASK32, self.seed >> 32), counters).ravel()
        return words[start - 4 * first :][:count]

    def uniform(self, count, start=0):
        """float32 in [0, 1)."""
        return ((self.words(count, start) >> np.uint64(8)).astype(np.float64) * 2.0**-24).astype(np.float32)

    def integers(self, bounds, start=0):
        """Element i is integer start + i of the stream, in [0, bounds[i])."""
        words = [int(word) for word in self.words(2 * len(bounds), 2 * start)]
        return [(words[2 * i] | words[2 * i + 1] << 32) * int(bound) >> 64 for i, bound in enumerate(bounds)]

    def integer(self, index, bound):
        return self.integers([bound], index)[0]

    def normal(self, shape):
        """float32 standard normals of this shape, by Box-Muller in double."""
        count = int(np.prod(shape))
        words = self.words((count + 3) // 4 * 4).astype(np.float64).reshape(-1, 2)
        radius = np.sqrt(-2.0 * np.log((words[:, 0] + 1.0) * 2.0**-32))
        angle = 2.0 * np.pi * (words[:, 1] * 2.0**-32)
        pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
        return pairs.ravel()[:count].astype(np.float32).reshape(shape)

    def permutation(self, count):
        """Fisher-Yates permutation of range(count)."""
        order = list(range(count))
        ends = range(count - 1, 0, -1)
        for i, j in zip(ends, self.integers([i + 1 for i in ends])):
            order[i], order[j] = order[j], order[i]
        return order


def fnv1a(text):
    digest = 0xCBF29CE484222325
    for byte in text.encode("utf-8"):
        digest = (digest ^ byte) * 0x100000001B3 & MASK64
    return digest


def derive_seed(seed, name, index=0):
    digest = fnv1a(name)
    counter = [[digest & MASK32, digest >> 32, index, 0x6C646D74]]
    words = philox4x32((seed & MASK32, seed >> 32), counter)[0]
    return int(words[0]) | int(words[1]) << 32


@dataclass(frozen=True)
class Draw:
    draw: int
    bucket: int
    row: int
    epoch: int


class SampleStream:
    """Which rows a micro-batch holds. rows: training rows of each bucket, in order of bucket; with several datasets a
    list of each dataset's rows of the bucket. weights: how often one pass takes a row of each dataset, as fractions of
    millionths. All passes up to the one asked for are laid out one after the other.
    """

    def __init__(self, rows, data_seed, trial_seed, dataset, micro_batch_size, weights=(1,)):
        self.shares = [[share] if isinstance(share, int) else list(share) for share in rows]
        self.weights = [Fraction(round(weight * 10**6), 10**6) for weight in weights]
        self.data_seed, self.trial_seed = data_seed, trial_seed
        self.dataset, self.micro_batch_size = dataset, micro_batch_size
        self._passes = 0
        self._turns = []  # the bucket of each micro-batch
        self._elements = [[] for _ in self.shares]  # (row, pass) of each bucket in the order in which they are drawn

    def _taken(self, bucket, dataset, index):
        """Rows of one dataset's share of a bucket that a pass takes, each as often, in order."""
        count, weight = self.shares[bucket][dataset], self.weights[dataset]
        if count == 0:
            return []
        stream = Stream(self.data_seed, "dataset_weight", self.dataset, bucket << 40 | dataset)
        phase = stream.integer(count, weight.denominator) if weight.denominator > 1 else 0
        first, end = ((e * count * weight.numerator + phase) // weight.denominator for e in (index, index + 1))
        order = stream.permutation(count)
        return sorted(order[i % count] for i in range(first, end))

    def _lay_out_a_pass(self):
        index, buckets = self._passes, []
        for bucket, shares in enumerate(self.shares):
            taken = [
                sum(shares[:dataset]) + row for dataset in range(len(shares)) for row in self._taken(bucket, dataset, index)
            ]
            seed = derive_seed(self.data_seed, "order") ^ self.trial_seed
            order = Stream(seed, "sample_order", self.dataset, bucket << 40 | index).permutation(len(taken))
            self._elements[bucket] += [(taken[i], index) for i in order]
            buckets += [bucket] * len(taken)
        places = Stream(self.data_seed, "bucket_order", self.dataset, index).permutation(len(buckets))
        self._turns += [buckets[place] for place in places]
        self._passes += 1

    def micro_batch(self, m):
        size = self.micro_batch_size
        while len(self._turns) <= m:
            self._lay_out_a_pass()
        bucket = self._turns[m]
        first = self._turns[:m].count(bucket) * size
        while len(self._elements[bucket]) < first + size:
            self._lay_out_a_pass()
        drawn = self._elements[bucket][first : first + size]
        return [Draw(m * size + slot, bucket, row, index) for slot, (row, index) in enumerate(drawn)]


def subset(images, count, subset_seed):
    """data.subset: positions of the first `count` of `images` training images (in order of first sample_id)."""
    return sorted(Stream(subset_seed, "subset").permutation(images)[:count])
