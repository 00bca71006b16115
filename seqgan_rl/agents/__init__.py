"""Agents: SeqGAN as a Stable-Baselines3 algorithm, and the generator as an SB3 policy."""

if __name__ == "agents":  # imported through the link at the top of a checkout
    raise ImportError("`agents` is a link for readers; write `import seqgan_rl.agents` (after `pip install -e .`)")
