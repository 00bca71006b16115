"""Generators, their likelihood training, and the oracle."""

from seqgan_rl.models import transformer as transformer  # registers its generator
from seqgan_rl.models import vae as vae  # registers its generator
