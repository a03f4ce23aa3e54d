"""Models and tokenizers from a folder or the hub: whole, or refused in one line.

transformers loads a checkpoint that lacks weights all the same, with random ones in their place and a warning that scrolls
by; a damaged file ends in a traceback of whichever library read it; a name that is neither a folder nor on the hub is looked
for ten times. Each is an error here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_bench.errors import BenchError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

_SHOWN = 240
"""Characters of a library's own message that are passed on."""


def resolve_model(name: str | Path) -> str:
    """The folder or hub id behind a name; asks the hub whether it has it, once, unless it is in the local cache.

    Raises:
        BenchError: for a folder that is not there or holds no model, and a name that is neither a folder nor on the hub.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        _check_folder(path)
        return str(path)
    if path.exists():
        raise BenchError(f"model {name}: is a file; name the folder that holds it")
    if str(name).startswith((".", "/", "~")) or str(name).count("/") != 1:
        raise BenchError(f"model {name}: no such folder; give a folder with a config.json, or a hub id (owner/name)")
    _check_hub(str(name))
    return str(name)


def _check_folder(path: Path) -> None:
    config = path / "config.json"
    if not config.is_file():
        raise BenchError(f"model {path}: no config.json in it, so it is not a model folder")
    try:
        values = json.loads(config.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise BenchError(f"model {path}: config.json is not JSON; download it again") from None
    if not isinstance(values, dict) or "model_type" not in values:
        raise BenchError(f"model {path}: config.json names no model_type, so its architecture is unknown")
    if not any(path.glob("*.safetensors")) and not any(path.glob("pytorch_model*.bin")):
        raise BenchError(f"model {path}: no weights (*.safetensors) in it; finish the download")


def _check_hub(name: str) -> None:
    from huggingface_hub import model_info, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        if isinstance(try_to_load_from_cache(name, "config.json"), str):
            return
        model_info(name, timeout=10)
    except HFValidationError:
        raise BenchError(f"model {name}: no such folder, and no name that the hub could have (owner/name)") from None
    except RepositoryNotFoundError:
        raise BenchError(
            f"model {name}: no such folder, and the hub has none by that name; check it, or set HF_TOKEN if it is private"
        ) from None
    except Exception as error:  # noqa: BLE001 - the network fails in as many ways as there are HTTP libraries
        raise BenchError(
            f"model {name}: no such folder, and the hub cannot be asked ({_line(error)}); check the name and the connection"
        ) from None


def load_pretrained(name: str | Path, *, dtype: torch.dtype, **loading: Any) -> tuple[Any, PreTrainedTokenizerBase]:
    """A causal language model and its tokenizer, every weight of it from the checkpoint.

    Args:
        name: a folder, or a hub id.
        dtype: of the weights.
        loading: what else `from_pretrained` is to be told, such as a quantization_config.

    Raises:
        BenchError: for what `resolve_model` refuses, what transformers cannot read, and a checkpoint that lacks weights or has
            some of another shape than its config.json says.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = resolve_model(name)
    # A file from elsewhere may make any library under transformers raise anything: hence every Exception.
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except Exception as error:  # noqa: BLE001
        raise BenchError(
            f"model {name}: its tokenizer cannot be loaded; put the one it was trained with beside it ({_line(error)})"
        ) from None
    try:
        # Of wrong shapes transformers says only that there are some; what it lists instead is refused below.
        model, found = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **loading
        )
    except Exception as error:  # noqa: BLE001
        raise BenchError(f"model {name}: transformers cannot load it: {_line(error)}") from None
    missing, odd = sorted(found["missing_keys"]), sorted(found["mismatched_keys"], key=str)
    if missing:
        raise BenchError(
            f"model {name}: {len(missing)} of its weights are not in the checkpoint (first {missing[0]}) and would be random; "
            "finish the download"
        )
    if odd:
        key, there, wanted = odd[0]
        raise BenchError(
            f"model {name}: {len(odd)} of its weights do not fit config.json (first {key}: {list(there)} in the checkpoint, "
            f"{list(wanted)} by the config); the two are of different models"
        )
    return model, tokenizer


def _line(error: Exception) -> str:
    """What an error says, in one line of bearable length that ends with a word."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _SHOWN else text[:_SHOWN].rsplit(" ", 1)[0] + " …"
