"""Tokenizer, processor and untrained model of the demonstration checkpoint.

Everything is an ordinary object of transformers: what is saved here loads with `AutoProcessor`
and `AutoModelForImageTextToText`, as any other Idefics2 checkpoint does.
"""

import random
from collections.abc import Iterable, Iterator

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    GenerationConfig,
    Idefics2Config,
    Idefics2ForConditionalGeneration,
    Idefics2ImageProcessorPil,
    Idefics2Processor,
    PreTrainedTokenizerFast,
)

from workers.demo import followups, formats, pairs, scenes, texts

VOCABULARY = 640
#: Image tokens per picture: what the perceiver condenses the patches into.
LATENTS = 16
PATCH = 8
GRID = 96 // PATCH
VISION_WIDTH = 128
TEXT_WIDTH = 192
CORPUS_SCENES = 12_000

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
FAKE_TOKEN, IMAGE_TOKEN, END = "<fake_token_around_image>", "<image>", "<end_of_utterance>"

#: The chat template of the published Idefics2 checkpoints.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{message['role'].capitalize()}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}"
    "{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def corpus() -> Iterator[str]:
    """The dialogues from which the tokenizer learns its merges."""
    rng = random.Random(11)
    for _ in range(CORPUS_SCENES):
        scene, other = (
            scenes.sample(rng, canvas=rng.choice(scenes.CANVASES), combinations="all")
            for _ in range(2)
        )
        for question, answer in (
            texts.ask_caption(scene, rng),
            texts.ask_detailed_caption(scene, rng),
            texts.ask_anything(scene, rng),
            texts.drawn(pairs.PAIR_QUESTIONS, rng, scene, other),
            pairs.ask_changed(scene, pairs.alter(scene, rng, "all"), rng),
            *texts.drawn(followups.FOLLOW_UPS, rng, scene),
            (rng.choice(texts.CAPTION_PROMPTS), rng.choice(formats.ALL).write(scene)),
        ):
            yield f"User: {question}\nAssistant: {answer}\n"


def make_processor(
    learned: Iterable[str] | None = None, vocabulary: int = VOCABULARY
) -> Idefics2Processor:
    """Train the tokenizer (byte-level BPE, so any text survives) and wrap it for Idefics2.

    Args:
        learned: Texts to learn merges from; the dialogues of the demonstration if None.
        vocabulary: Tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, BOS, EOS, FAKE_TOKEN, IMAGE_TOKEN, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus() if learned is None else learned, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A {BOS} $B",
        special_tokens=[(BOS, tokenizer.token_to_id(BOS))],
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
        additional_special_tokens=[FAKE_TOKEN, IMAGE_TOKEN, END],
    )
    pixels = Idefics2ImageProcessorPil(
        size={"shortest_edge": 72, "longest_edge": 96}, do_image_splitting=False
    )
    return Idefics2Processor(pixels, wrapped, image_seq_len=LATENTS, chat_template=CHAT_TEMPLATE)


def make_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> Idefics2ForConditionalGeneration:
    """An untrained model of about 4 million parameters, its chance drawn from `seed`."""
    torch.manual_seed(seed)
    token_id = tokenizer.convert_tokens_to_ids
    special = {
        "pad_token_id": token_id(PAD),
        "bos_token_id": token_id(BOS),
        "eos_token_id": token_id(EOS),
    }
    config = Idefics2Config(
        image_token_id=token_id(IMAGE_TOKEN),
        tie_word_embeddings=False,
        vision_config={
            "hidden_size": VISION_WIDTH,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "image_size": GRID * PATCH,
            "patch_size": PATCH,
            "initializer_range": 0.05,
        },
        perceiver_config={
            "hidden_size": TEXT_WIDTH,
            "resampler_n_latents": LATENTS,
            "resampler_depth": 2,
            "resampler_n_heads": 4,
            "resampler_head_dim": 48,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-5,
            "initializer_range": 0.05,
        },
        text_config={
            "model_type": "mistral",
            "vocab_size": len(tokenizer),
            "hidden_size": TEXT_WIDTH,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 48,
            "max_position_embeddings": 2048,
            "sliding_window": None,
            "rms_norm_eps": 1e-5,
            "initializer_range": 0.05,
            "tie_word_embeddings": False,
            **special,
        },
        **special,
    )
    model = Idefics2ForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        bos_token_id=token_id(BOS),
        pad_token_id=token_id(PAD),
        eos_token_id=[token_id(EOS), token_id(END)],
        max_new_tokens=64,
        bad_words_ids=[[token_id(IMAGE_TOKEN)], [token_id(FAKE_TOKEN)]],
    )
    with torch.no_grad():
        # The class makes every latent equal, and equal latents stay equal: break the symmetry.
        model.model.connector.perceiver_resampler.latents.normal_(0, 0.5)
        model.model.text_model.embed_tokens.weight.normal_(0, 0.3)
        model.model.text_model.embed_tokens.weight[token_id(PAD)].zero_()
        model.model.vision_model.embeddings.position_embedding.weight.add_(
            sine_positions(), alpha=0.5
        )
    return model


def sine_positions() -> torch.Tensor:
    """Two-dimensional sine and cosine positions: float32 (GRID * GRID, VISION_WIDTH)."""
    quarter = VISION_WIDTH // 4
    frequencies = 1.2 / (30 ** (torch.arange(quarter).float() / (quarter - 1)))
    angles = torch.arange(GRID).float()[:, None] * frequencies
    line = torch.cat([angles.sin(), angles.cos()], 1)
    rows = line[:, None].expand(GRID, GRID, -1)
    columns = line[None].expand(GRID, GRID, -1)
    return torch.cat([rows, columns], -1).reshape(GRID * GRID, VISION_WIDTH)
