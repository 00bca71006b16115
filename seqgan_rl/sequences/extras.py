"""Libraries that are not always installed: loaded when first needed, with a word on how to get them."""

import importlib
from typing import Any

from seqgan_rl.core.errors import InputError


def needed(module: str, extra: str, purpose: str) -> Any:
    """A module of a library that an extra of this package installs; InputError that names the extra where it is absent.

    Args:
        module: its full name; all of the library's submodules that are used must be imported by it.
        extra: the extra in ``setup.cfg`` that installs it.
        purpose: what needs it, the beginning of the message.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        library = module.partition(".")[0]
        raise InputError(
            f"{purpose} needs the library {library}, which cannot be imported ({error.name or 'it is damaged'} is "
            f"missing); install it with: pip install 'seqgan_rl[{extra}]'"
        ) from None
