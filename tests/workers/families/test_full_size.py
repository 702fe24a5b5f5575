"""The small model for photographs that the README names, at full size with random weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

from tests.hub import Hub
from tests.servers import PATIENCE_SECONDS
from tests.workers.families import tiny_parts as parts
from workers.demo.build import CHAT_TEMPLATE

NAME = "HuggingFaceTB/SmolVLM-256M-Instruct"
#: SmolLM2-135M-Instruct and the SigLIP of base size for 512 pixels, of which it is made.
TEXT = {
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "max_position_embeddings": 8192,
    "rope_theta": 100_000.0,
    "vocab_size": 49_280,
    "tie_word_embeddings": False,
}
VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 512,
    "patch_size": 16,
}
ANSWER = """
import json
from PIL import Image
from workers import families
from workers.settings import EngineSettings

family = families.load(EngineSettings())
request = {"kind": "caption", "options": {"max_new_tokens": 4}}
item = family.prepare(request, [Image.linear_gradient("L").convert("RGB").resize((640, 480))])
[answer] = family.generate([item])
weights = sum(weight.numel() for weight in family.loaded.model.parameters())
print(json.dumps([weights, item.tokens, answer.completion_tokens, family.card.serving.path]))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    tokenizer = parts.bytes_tokenizer([parts.FAKE, parts.IMAGE, parts.END, "<global-img>", *rows])
    pixels = transformers.Idefics3ImageProcessorPil(
        size={"longest_edge": 2048}, max_image_size={"longest_edge": 512}
    )
    processor = transformers.Idefics3Processor(
        pixels, tokenizer, image_seq_len=64, chat_template=f"<s>{CHAT_TEMPLATE}"
    )
    config = transformers.Idefics3Config(
        image_token_id=tokenizer.convert_tokens_to_ids(parts.IMAGE),
        scale_factor=4,
        pad_token_id=0,
        tie_word_embeddings=False,
        vision_config=VISION,
        text_config=TEXT,
    )
    torch.manual_seed(1)
    model = transformers.AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "published")
    processor.save_pretrained(tmp_path / "published")
    return tmp_path / "published"


def test_smolvlm_256m_is_loaded_from_the_hub_by_its_name_and_answers(
    folder: Path, tmp_path: Path
) -> None:
    with Hub({NAME: folder}).running() as hub:
        env = {
            **os.environ,  # noqa: TID251 - for the process
            "HF_ENDPOINT": hub.url,
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "IDEFIQ_MODEL": NAME,
            "IDEFIQ_IMAGE_SPLITTING": "off",
        }
        done = subprocess.run(
            [sys.executable, "-c", ANSWER],
            env=env,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )

    assert done.returncode == 0, done.stderr
    weights, prompt_tokens, completion_tokens, path = json.loads(done.stdout)
    assert weights == pytest.approx(256e6, rel=0.05)
    assert prompt_tokens > 64
    assert 0 < completion_tokens <= 4
    assert path == "slots"
