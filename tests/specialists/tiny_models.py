"""Tiny randomly initialised models of the real transformers classes, saved as the hub holds them."""

import json

import torch
import transformers as T
from tokenizers import Tokenizer
from tokenizers.models import Unigram
from tokenizers.pre_tokenizers import Metaspace
from tokenizers.processors import TemplateProcessing
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil
from transformers.models.grounding_dino.image_processing_pil_grounding_dino import GroundingDinoImageProcessorPil
from transformers.models.owlv2.image_processing_pil_owlv2 import Owlv2ImageProcessorPil
from transformers.models.rt_detr.image_processing_pil_rt_detr import RTDetrImageProcessorPil
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

NAMES = {i: f"kind {i}" for i in range(5)}
SMALL = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
HEADS = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 12, 16, 16], "depths": [1, 1, 1, 1], "layer_type": "basic"}


def bert_tokenizer(folder):
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ",", "the", "cat", "dog", "car", "on", "red", *letters]
    words += [f"##{letter}" for letter in letters]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    return T.BertTokenizer(str(folder / "vocab.txt")), len(words)


def clip_tokenizer(folder):
    letters = [*"abcdefghijklmnopqrstuvwxyz.,"]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return T.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")), len(words)


def detr(folder):
    backbone = T.ResNetConfig(**RESNET, out_features=["stage4"])
    config = T.DetrConfig(
        use_timm_backbone=False, backbone=None, use_pretrained_backbone=False, backbone_config=backbone, num_queries=30,
        d_model=32, encoder_layers=1, decoder_layers=1, **HEADS, id2label=NAMES,
    )  # fmt: skip
    return T.DetrForObjectDetection(config), DetrImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 128})


def rt_detr(folder):
    backbone = T.RTDetrResNetConfig(**RESNET, out_features=["stage2", "stage3", "stage4"])
    config = T.RTDetrConfig(
        backbone_config=backbone, encoder_hidden_dim=32, encoder_in_channels=[12, 16, 16], encoder_layers=1, d_model=32,
        num_queries=30, decoder_in_channels=[32, 32, 32], decoder_layers=1, **HEADS, id2label=NAMES,
    )  # fmt: skip
    return T.RTDetrForObjectDetection(config), RTDetrImageProcessorPil(size={"height": 96, "width": 96})


def grounding_dino(folder):
    tokenizer, words = bert_tokenizer(folder)
    swin = T.SwinConfig(
        image_size=64, embed_dim=8, depths=[1] * 4, num_heads=[1, 1, 2, 2], window_size=4,
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = T.GroundingDinoConfig(
        backbone_config=swin, text_config=T.BertConfig(vocab_size=words, **SMALL), num_queries=30, encoder_layers=1,
        decoder_layers=2, d_model=32, max_text_len=64, encoder_n_points=2, decoder_n_points=2, **HEADS,
    )  # fmt: skip
    images = GroundingDinoImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 128})
    return T.GroundingDinoForObjectDetection(config), T.GroundingDinoProcessor(images, tokenizer)


def owlv2(folder):
    tokenizer, words = clip_tokenizer(folder)
    ends = {"bos_token_id": words - 2, "eos_token_id": words - 1, "pad_token_id": words - 1}
    config = T.Owlv2Config(
        text_config={"vocab_size": words, "max_position_embeddings": 32, **ends, **SMALL},
        vision_config={"image_size": 96, "patch_size": 16, **SMALL}, projection_dim=32,
    )  # fmt: skip
    images = Owlv2ImageProcessorPil(size={"height": 96, "width": 96})
    return T.Owlv2ForObjectDetection(config), T.Owlv2Processor(images, tokenizer)


def sam(folder):
    decoder = {"hidden_size": 16, "mlp_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = T.SamConfig(
        vision_config={
            "hidden_size": 16, "output_channels": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "image_size": 64, "patch_size": 8, "mlp_dim": 32, "window_size": 4, "global_attn_indexes": [0],
            "num_pos_feats": 8,
        },
        prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 4,
                               "image_embedding_size": 8},
        mask_decoder_config={**decoder, "iou_head_hidden_dim": 16, "iou_head_depth": 2},
    )  # fmt: skip
    sides = {"size": {"longest_edge": 64}, "pad_size": {"height": 64, "width": 64}}
    masks = {"mask_size": {"longest_edge": 32}, "mask_pad_size": {"height": 32, "width": 32}}
    return T.SamModel(config), T.SamProcessor(SamImageProcessorPil(**sides, **masks))


def blip(folder):
    tokenizer, words = bert_tokenizer(folder)
    ends = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0, "sep_token_id": 3}
    config = T.BlipConfig(
        text_config={"vocab_size": words, "encoder_hidden_size": 32, "max_position_embeddings": 64, **ends, **SMALL},
        vision_config={"image_size": 64, "patch_size": 16, **SMALL}, projection_dim=16,
    )  # fmt: skip
    images = BlipImageProcessorPil(size={"height": 64, "width": 64})
    return T.BlipForConditionalGeneration(config), T.BlipProcessor(images, tokenizer)


def git(folder):
    tokenizer, words = bert_tokenizer(folder)
    ends = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    vision = {"image_size": 64, "patch_size": 16, **SMALL}
    config = T.GitConfig(vision_config=vision, vocab_size=words, max_position_embeddings=64, **ends, **SMALL)
    return T.GitForCausalLM(config), T.GitProcessor(_clip_images(), tokenizer)


def clip(folder):
    tokenizer, words = clip_tokenizer(folder)
    ends = {"bos_token_id": words - 2, "eos_token_id": words - 1, "pad_token_id": words - 1}
    config = T.CLIPConfig(
        text_config={"vocab_size": words, "max_position_embeddings": 48, **ends, **SMALL},
        vision_config={"image_size": 64, "patch_size": 16, **SMALL}, projection_dim=16,
    )  # fmt: skip
    return T.CLIPModel(config), T.CLIPProcessor(_clip_images(), tokenizer)


def siglip(folder):
    letters = [*"abcdefghijklmnopqrstuvwxyz.,"]
    words = ["<pad>", "</s>", "<unk>", "▁", *letters, "▁the", "▁dog", "▁car", "▁red", "▁on"]
    fast = Tokenizer(Unigram([(word, -2.0 if len(word) > 1 else -5.0) for word in words], unk_id=2))
    fast.pre_tokenizer = Metaspace()
    fast.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = T.PreTrainedTokenizerFast(
        tokenizer_object=fast, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=24,
        model_input_names=["input_ids"],
    )  # fmt: skip
    config = T.SiglipConfig(
        text_config={"vocab_size": len(words), "max_position_embeddings": 24, "pad_token_id": 0, "bos_token_id": 1,
                     "eos_token_id": 1, **SMALL},
        vision_config={"image_size": 64, "patch_size": 16, **SMALL},
    )  # fmt: skip
    images = SiglipImageProcessorPil(size={"height": 64, "width": 64})
    return T.SiglipModel(config), T.SiglipProcessor(images, tokenizer)


def _clip_images():
    return CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})


MODELS = {f.__name__: f for f in (detr, rt_detr, grounding_dino, owlv2, sam, blip, git, clip, siglip)}


def make(name, folder):
    """Save a tiny model and its processor; the same weights every time."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model, processor = MODELS[name](folder)
    for parameter in model.parameters():  # less alike than at initialisation, so that boxes and scores differ
        parameter.data += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
