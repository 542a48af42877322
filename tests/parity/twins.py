"""One set of random weights in two models: transformers' native Florence-2 and ours."""

import torch
from transformers import Florence2Config, Florence2ForConditionalGeneration

from florence2.model.config import SIZES, ModelConfig, TextConfig, VisionConfig
from florence2.model.florence import Florence
from florence2.model.layouts import key_table


def _tiny(dims, depths, heads, window, side, d_model, layers, text_heads, vocab_size) -> ModelConfig:
    return ModelConfig(
        vision=VisionConfig(dims=dims, depths=depths, heads=heads, groups=heads, window=window),
        text=TextConfig(
            vocab_size=vocab_size, d_model=d_model, encoder_layers=layers, decoder_layers=layers,
            encoder_heads=text_heads, decoder_heads=text_heads, encoder_ffn=2 * d_model, decoder_ffn=2 * d_model,
        ),
        image_size_wh=(side, side),
    )  # fmt: skip


TWINS = {
    "tiny-96": _tiny((8, 16, 32, 64), (1, 1, 1, 1), (1, 2, 4, 8), 12, 96, 32, 2, 4, 1400),
    "tiny-224": _tiny((16, 32, 48, 64), (1, 1, 2, 1), (2, 2, 4, 4), 7, 224, 48, 1, 4, 1600),
    "tiny-64": _tiny((8, 8, 16, 32), (1, 2, 1, 1), (1, 1, 2, 4), 4, 64, 64, 3, 8, 1300),
    "base": SIZES["base"],
}


def twins(config: ModelConfig, seed: int = 0, scale: float = 3.0):
    """(theirs, ours): the same weights in both, `scale` times as far from zero as a fresh model's matrices."""
    torch.manual_seed(seed)
    ours = Florence(config).eval()
    with torch.no_grad():
        for name, weight in ours.named_parameters():
            if weight.ndim == 1:
                weight.add_(torch.randn_like(weight) * 0.1)
            elif name != "language.embedding.weight":
                weight.mul_(scale)
    theirs = Florence2ForConditionalGeneration(their_config(config)).eval()
    share(ours, theirs)
    return theirs, ours


def share(ours: Florence, theirs: Florence2ForConditionalGeneration) -> None:
    """Give their model our weights; every parameter of theirs must get one."""
    state = ours.state_dict()
    names = {key: name for key, name in key_table(ours.config, "transformers").items() if name in state}
    missing, unexpected = theirs.load_state_dict({key: state[name] for key, name in names.items()}, strict=False)
    theirs.tie_weights()
    tied = {"lm_head.weight", *(f"model.language_model.{part}.embed_tokens.weight" for part in ("encoder", "decoder"))}
    assert not unexpected and set(missing) <= tied, (missing, unexpected)


def their_config(config: ModelConfig) -> Florence2Config:
    vision, text = config.vision, config.text
    return Florence2Config(
        vision_config=dict(
            model_type="florence_vision",
            depths=vision.depths, patch_size=vision.patch_sizes, patch_stride=vision.patch_strides,
            patch_padding=vision.patch_paddings, patch_prenorm=vision.patch_prenorm, embed_dim=vision.dims,
            num_heads=vision.heads, num_groups=vision.groups, window_size=vision.window,
            projection_dim=text.d_model, max_temporal_embeddings=vision.max_frames,
            max_position_embeddings=vision.max_side, mlp_ratio=vision.mlp_ratio,
        ),
        text_config=dict(
            model_type="bart", vocab_size=text.vocab_size, d_model=text.d_model,
            encoder_layers=text.encoder_layers, decoder_layers=text.decoder_layers,
            encoder_attention_heads=text.encoder_heads, decoder_attention_heads=text.decoder_heads,
            encoder_ffn_dim=text.encoder_ffn, decoder_ffn_dim=text.decoder_ffn,
            max_position_embeddings=text.max_positions, attn_implementation="eager",
        ),
        image_token_id=text.vocab_size - 1,
        attn_implementation="eager",
    )  # fmt: skip


def their_inputs(config: ModelConfig, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """Prompt ids and mask as theirs takes them: a placeholder for each picture vector in front."""
    places = torch.full((len(ids), config.image_tokens), config.text.vocab_size - 1)
    return {
        "input_ids": torch.cat([places, ids], 1),
        "attention_mask": torch.cat([torch.ones_like(places), mask.long()], 1),
    }
