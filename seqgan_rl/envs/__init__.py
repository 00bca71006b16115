"""Gymnasium environments of token-by-token generation.

Import from here only what needs no torch; environments are made by id: ``gym.make("SeqGAN/Oracle-v0")``.
"""

if __name__ == "envs":  # imported through the link at the top of a checkout
    raise ImportError("`envs` is a link for readers; write `import seqgan_rl.envs` (after `pip install -e .`)")
