"""Algorithm 1: likelihood pretraining, discriminator pretraining, adversarial training; runs that can be resumed."""
