"""Whether a model of the Hugging Face hub can be had, told in seconds."""

from __future__ import annotations

from tutelage.base.errors import UserError
from tutelage.base.network import check_address, through

PATIENCE = 10.0
"""Seconds to wait for an answer."""


def check_hub(source: str) -> None:
    """Make sure that a hub model can be reached, unless its configuration is in the cache already.

    transformers asks for every file it may have, five times each: a misspelt id takes it most of a minute.

    Raises:
        UserError: no such model, none that may be read, or no network.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.constants import ENDPOINT
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled, RepositoryNotFoundError

    try:
        if any(isinstance(try_to_load_from_cache(source, name), str) for name in ("config.json", "tokenizer.json")):
            return
        check_address(ENDPOINT)
        HfApi().model_info(source, timeout=PATIENCE)
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UserError(f"the hub has no model '{source}' that may be read; check the name, or `hf auth login` for a "
                        "private one") from error  # fmt: skip
    except OfflineModeIsEnabled as error:
        raise UserError(f"'{source}' is not in the hub's cache, and HF_HUB_OFFLINE forbids to fetch it: unset it, or "
                        "give a folder") from error  # fmt: skip
    except UserError:
        raise
    except Exception as error:  # many kinds, for each way in which a network fails
        said = " ".join(str(error).split()) or type(error).__name__
        reached = f"the hub cannot be reached for '{source}'{through(ENDPOINT)}"
        raise UserError(f"{reached}: {said}; check the network, or give a folder") from error
