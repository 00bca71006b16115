"""``python -m seqgan_rl``: the same program as ``seqgan-rl``."""

from seqgan_rl.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
