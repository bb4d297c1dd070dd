"""taming-transformers' config of a VQGAN, checked against the weights beside it."""

from pathlib import Path
from typing import Any

from dalle_base.common.config import read_yaml
from dalle_base.common.errors import UserError
from dvae.vqgan.config import VQGANConfig

ANY = object()
SUPPORTED: dict[str, Any] = {
    **dict.fromkeys(("ch", "ch_mult", "num_res_blocks", "attn_resolutions"), ANY),
    **dict.fromkeys(("z_channels", "resolution", "dropout"), ANY),
    "in_channels": 3,
    "out_ch": 3,
    "resamp_with_conv": True,
}
"""Options of the networks (`ddconfig`), and the values of them, that `VQGAN` knows. Others are fine
where they are off."""


def read_taming_config(path: Path) -> dict[str, Any]:
    """Return what the file says of a VQGAN: `ddconfig`, `n_embed`, `embed_dim`.

    A config of stage two is read for the first stage that is in it. Raises `UserError` if it is
    something else, or asks for what `VQGAN` cannot do.
    """
    try:
        params = read_yaml(path)["model"]["params"]
        if "first_stage_config" in params:
            params = params["first_stage_config"]["params"]
        networks = dict(params["ddconfig"])
        sizes = {name: params[name] for name in ("n_embed", "embed_dim")}
        resolution = networks["resolution"]
    except (LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is no config of a VQGAN of taming-transformers: it has no {error}"
        ) from None
    if type(resolution) is not int or resolution < 1:
        raise UserError(f"{path}: ddconfig.resolution is {resolution!r}, not a number of pixels")
    if params.get("remap"):
        raise UserError(f"{path}: remap is {params['remap']!r}, which is not supported")
    for name, value in networks.items():
        right = SUPPORTED.get(name)
        if value is not None and value is not False and right is not ANY and value != right:
            raise UserError(f"{path}: ddconfig.{name} is {value!r}, which is not supported")
    return {"ddconfig": networks, **sizes}


def check_taming_config(path: Path, stored: dict[str, Any], config: VQGANConfig) -> None:
    """Raise `UserError` unless `stored` describes the model whose sizes the weights have."""
    networks, network = stored["ddconfig"], config.network
    finest = networks["resolution"]
    sides = [finest // 2**level for level in network.attention_levels]
    attention = networks.get("attn_resolutions")
    reached = [finest // 2**level for level in range(len(network.multipliers))]
    for name, written, own in (
        ("ddconfig.ch", networks.get("ch"), network.width),
        ("ddconfig.ch_mult", networks.get("ch_mult"), network.multipliers),
        ("ddconfig.num_res_blocks", networks.get("num_res_blocks"), network.blocks),
        (
            "ddconfig.attn_resolutions",
            [side for side in reached if side in attention]
            if isinstance(attention, list)
            else attention,
            sides,
        ),
        ("ddconfig.z_channels", networks.get("z_channels"), network.z_channels),
        ("embed_dim", stored["embed_dim"], network.code_width),
        ("n_embed", stored["n_embed"], config.codebook_size),
    ):
        if written != own:
            raise UserError(
                f"{path} describes another model than the weights: {name} is {written}, theirs is "
                f"{own}; name the config that was published with them"
            )
