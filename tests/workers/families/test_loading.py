"""How a checkpoint is loaded: smaller, spread over devices, with an adapter on top."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import safetensors.torch
import torch
import transformers

from db.vocabulary.errors import RequestError
from tests.workers.answering import changed
from tests.workers.families import cases, exact, tiny, tiny_others
from workers import families
from workers.demo.build import CHAT_TEMPLATE
from workers.families import sizes
from workers.families.base import Answer
from workers.families.family import TransformersFamily
from workers.settings import EngineSettings

PICTURES = cases.pictures()
#: Of peft and of a processor, against libraries that they were not yet moved to.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Checkpoints whose sizes are multiples of 64, as 4-bit weights want them."""
    root = tmp_path_factory.mktemp("wide")

    def folder(name: str) -> Path:
        if not (root / name).exists():
            if name == "idefics":
                tiny.idefics(root / name, instruct=False, resampler=True, width=128)
            else:
                tiny.idefics2(root / name, width=128)
        return root / name

    return folder


def load(folder: Path, **settings: Any) -> TransformersFamily:
    family = families.load(EngineSettings(model="m", model_path=str(folder), **settings))
    assert isinstance(family, TransformersFamily)
    return family


def answers(family: TransformersFamily) -> list[Answer]:
    options = {"max_new_tokens": 8}
    questions = ["Why?", "What is to be seen in this picture?", "Who"]
    items = [
        family.prepare({"kind": "vqa", "question": question, "options": options}, [picture])
        for question, picture in zip(questions, PICTURES, strict=False)
    ]
    said: list[Answer] = family.generate(items)
    return said


def kinds_of_layers(family: TransformersFamily, part: str) -> set[str]:
    kinds = Counter(
        type(module).__name__
        for name, module in family.loaded.model.named_modules()
        if part in name and "Linear" in type(module).__name__
    )
    return {*kinds}


SEEING = {"idefics": "perceiver_resampler", "idefics2": "connector"}


@pytest.mark.parametrize("name", ["idefics", "idefics2"])
def test_t27_in_four_bits_what_sees_and_the_last_layer_keep_their_precision(
    name: str, wide: Callable[[str], Path]
) -> None:
    family = load(wide(name), quantize="nf4")

    assert kinds_of_layers(family, "self_attn.q_proj") >= {"Linear4bit"}
    assert kinds_of_layers(family, "model.layers" if name == "idefics" else "text_model") == {
        "Linear4bit"
    }
    for part in ("vision_model", SEEING[name], "lm_head"):
        assert "Linear4bit" not in kinds_of_layers(family, part)
    assert [answer.completion_tokens > 0 for answer in answers(family)] == [True] * 3
    assert family.card.quantize == "nf4"


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_t26_four_bits_answer_on_a_cpu_and_neighbours_move_them_by_rounding_only(
    compute: str, wide: Callable[[str], Path]
) -> None:
    family = load(wide("idefics2"), quantize="nf4", dtype=compute, quantize_double=False)

    assert family.card.checks is not None
    assert family.card.checks.batch_noise < 0.1 * family.card.checks.image_effect
    assert len({answer.text for answer in answers(family)}) == 3


def test_the_smallest_form_quantises_all_but_the_last_layer(wide: Callable[[str], Path]) -> None:
    family = load(wide("idefics2"), quantize="nf4-all")

    assert kinds_of_layers(family, "vision_model.encoder") == {"Linear4bit"}
    assert kinds_of_layers(family, "lm_head") == {"Linear"}


def test_eight_bits_answer_too(wide: Callable[[str], Path]) -> None:
    family = load(wide("idefics2"), quantize="int8")

    assert kinds_of_layers(family, "text_model") == {"Linear8bitLt"}
    assert kinds_of_layers(family, "vision_model") == {"Linear"}
    assert len(answers(family)) == 3


def test_a_model_spread_over_memory_and_disk_gives_the_same_answers(
    wide: Callable[[str], Path], tmp_path: Path
) -> None:
    whole = load(wide("idefics2"))
    spread = load(
        wide("idefics2"),
        device="auto",
        max_memory={"cpu": "1500KB"},
        offload_folder=str(tmp_path / "offloaded"),
    )

    assert {"cpu", "disk"} == {*spread.loaded.model.hf_device_map.values()}
    assert answers(spread) == answers(whole)


def test_t28_auto_on_a_single_device_is_that_device(wide: Callable[[str], Path]) -> None:
    family = load(wide("idefics2"), device="auto")

    assert family.loaded.device == torch.device("cpu")
    assert len(answers(family)) == 3


@pytest.fixture
def adapter(wide: Callable[[str], Path], tmp_path: Path) -> Path:
    """A LoRA adapter that does something: its second half is zeros as it is made."""
    model = transformers.AutoModelForImageTextToText.from_pretrained(wide("idefics2"))
    torch.manual_seed(3)
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(r=4, target_modules=r".*text_model.*\.(q_proj|v_proj)")
    )
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    adapted.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_an_adapter_changes_the_answers_as_peft_itself_does(
    wide: Callable[[str], Path], adapter: Path
) -> None:
    base, adapted = load(wide("idefics2")), load(wide("idefics2"), adapter=str(adapter))
    theirs = load(wide("idefics2"))
    theirs = changed(
        theirs, model=peft.PeftModel.from_pretrained(theirs.loaded.model, adapter).eval()
    )

    assert answers(adapted) == answers(theirs)
    assert answers(adapted) != answers(base)
    assert adapted.card.adapter == str(adapter)


def test_an_adapter_that_could_run_code_is_refused(
    wide: Callable[[str], Path], adapter: Path
) -> None:
    weights = safetensors.torch.load_file(adapter / "adapter_model.safetensors")
    torch.save(weights, adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()

    with pytest.raises(RequestError, match=r"no adapter_model\.safetensors; pickled weights"):
        load(wide("idefics2"), adapter=str(adapter))


def test_an_adapter_of_another_model_is_refused(wide: Callable[[str], Path], adapter: Path) -> None:
    """It would load without a word, and change nothing."""
    path = adapter / "adapter_model.safetensors"
    weights = safetensors.torch.load_file(path)
    renamed = {name.replace("layers.0", "layers.9"): weight for name, weight in weights.items()}
    safetensors.torch.save_file(renamed, path)

    with pytest.raises(RequestError, match=r"is not one of this model: .* have no place in it"):
        load(wide("idefics2"), adapter=str(adapter))


def test_an_adapter_within_the_models_folder_is_refused(
    wide: Callable[[str], Path], adapter: Path, tmp_path: Path
) -> None:
    """It would be applied without being asked for."""
    shutil.copytree(wide("idefics2"), tmp_path / "both")
    shutil.copytree(adapter, tmp_path / "both", dirs_exist_ok=True)

    with pytest.raises(RequestError, match="holds an adapter, which would be applied unseen"):
        load(tmp_path / "both")


@pytest.mark.parametrize("missing", ["tokenizer.json", "processor_config.json", "config.json"])
@pytest.mark.parametrize("name", ["idefics-base", "idefics2", "idefics3", "llava"])
def test_a_checkpoint_that_lacks_a_file_is_a_clear_error(
    name: str, missing: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(checkpoint(name), tmp_path / "lacking")
    (tmp_path / "lacking" / missing).unlink()

    with pytest.raises(RequestError, match="'lacking'"):
        exact.load(tmp_path / "lacking", "lacking")


def test_a_model_asked_to_converse_without_a_template_is_a_clear_error(
    checkpoint: Callable[[str], Path],
) -> None:
    with pytest.raises(RequestError, match=r"'m' cannot be loaded: .*template"):
        load(checkpoint("idefics2-base"), prompt_style="chat")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_device_is_a_clear_error(wide: Callable[[str], Path]) -> None:
    with pytest.raises(RequestError, match="no device 'cuda' can be used here"):
        load(wide("idefics2"), device="cuda")


def test_a_chat_template_from_a_file_makes_a_base_model_converse(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    template = tmp_path / "template.jinja"
    template.write_text(CHAT_TEMPLATE)

    family = load(checkpoint("idefics2-base"), chat_template=str(template))

    assert "chat" in family.card.kinds


def test_a_folder_that_is_no_adapter_is_refused_by_name(
    wide: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match=r"is no LoRA adapter: it has no adapter_config\.json"):
        load(wide("idefics2"), adapter=str(tmp_path))


@pytest.mark.parametrize("dropped", ["lm_head", ".layers.1."])
def test_weights_that_no_file_holds_are_not_filled_with_noise(
    dropped: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoint("llava"), folder)
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if dropped not in name}
    safetensors.torch.save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(RequestError, match=r"lack \d+ of its weights, such as '"):
        load(folder)


@pytest.mark.parametrize("config", ["[]", "5", "null", '"x"', "[" * 100_000])
def test_a_configuration_that_is_no_object_is_a_clear_error(config: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(config)

    with pytest.raises(RequestError, match="none that can be read"):
        load(tmp_path)


def test_a_checkpoint_whose_own_default_is_beam_search_ranks_labels_without_it(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoint("idefics2"), folder)
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_beams": 2}))

    family = load(folder)

    assert family.card.defaults["num_beams"] == 2
    assert family.ranker.is_cached


@pytest.mark.parametrize(
    ("file", "changed", "said"),
    [
        ("generation_config.json", {"do_sample": True, "top_k": -1}, "has an option that cannot"),
        ("generation_config.json", {"do_sample": True, "temperature": -1.0}, "option that cannot"),
        ("config.json", {"text_config": {"num_hidden_layers": 10**8}}, "num_hidden_layers is 100"),
        ("config.json", {"quantization_config": {"quant_method": "bitsandbytes",
            "load_in_4bit": True}}, "weights are quantized .fp4., and they are not"),
    ],
)  # fmt: skip
def test_a_checkpoint_that_would_fail_each_item_or_never_load_is_refused(
    file: str,
    changed: dict[str, Any],
    said: str,
    checkpoint: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoint("idefics2"), folder)
    config = json.loads((folder / file).read_text())
    for name, value in changed.items():
        inner = isinstance(value, dict) and name in config
        config[name] = {**config[name], **value} if inner else value
    (folder / file).write_text(json.dumps(config))

    with pytest.raises(RequestError, match=said):
        load(folder)


def test_a_chat_template_that_leaves_out_what_a_user_writes_is_refused(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    template = tmp_path / "own.jinja"
    template.write_text("{% for m in messages %}<image>{% endfor %}\nAnswer:")

    with pytest.raises(RequestError, match="leaves out the text of messages"):
        load(checkpoint("idefics2"), chat_template=str(template))


def test_stop_strings_of_a_checkpoint_are_its_default(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoint("idefics2"), folder)
    [whole, *_] = answers(load(folder))
    path = folder / "generation_config.json"
    stop = whole.text[2:4]
    path.write_text(json.dumps({**json.loads(path.read_text()), "stop_strings": stop}))

    family = load(folder)

    assert family.card.defaults["stop"] == [stop]
    assert answers(family)[0].text == whole.text[: whole.text.index(stop)].strip()


def test_missing_shards_are_named(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "sharded"
    shutil.copytree(checkpoint("idefics2"), folder)
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="300KB")
    sorted(folder.glob("*.safetensors"))[1].unlink()

    with pytest.raises(RequestError, match=r"1 shards .* are missing .* 'model-00002-of"):
        exact.load(folder, "sharded")


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_implementation_of_attention_can_be_chosen(
    attention: str, wide: Callable[[str], Path]
) -> None:
    family = load(wide("idefics2"), attention=attention, engine="generate")

    assert family.loaded.model.config._attn_implementation == attention
    assert [a.text for a in answers(family)] == [a.text for a in answers(load(wide("idefics2")))]


def test_a_missing_attention_implementation_is_a_clear_error(wide: Callable[[str], Path]) -> None:
    with pytest.raises(RequestError, match=r"model 'm' cannot be loaded: .*[Ff]lash"):
        load(wide("idefics2"), attention="flash_attention_2")


CAPTION_FIRST = (
    "{% for m in messages %}{% for p in m['content'] %}{% if p['type'] == 'image' %}<image>"
    "{% else %}{{ p['text'] }}{% endif %}{% endfor %}{% endfor %}"
)


def test_a_chat_template_from_a_file_comes_before_the_one_that_is_shipped(
    tmp_path: Path,
) -> None:
    tiny_others.paligemma(tmp_path / "model")
    template = tmp_path / "template.jinja"
    template.write_text(CAPTION_FIRST)

    family = load(tmp_path / "model", chat_template=str(template))
    reference = transformers.AutoProcessor.from_pretrained(tmp_path / "model")
    asked = [("caption en", 0), ("answer en what is to be seen in the picture?", 1)]
    items = [
        family.prepare(
            {"kind": "caption", "prompt": text, "options": {"max_new_tokens": 8}}, [PICTURES[n]]
        )
        for text, n in asked
    ]

    expected = []
    for text, number in asked:
        inputs = reference(text=f"<image>{text}", images=PICTURES[number], return_tensors="pt")
        inputs.pop("labels", None)
        output = family.loaded.model.generate(
            **inputs,
            max_new_tokens=8,
            do_sample=False,
            bad_words_ids=[[family.loaded.end_tokens.forbidden[0]]],
        )
        expected.append(output[0, inputs["input_ids"].shape[1] :].tolist())
    assert [family.generator.generate_ids([item])[0] for item in items] == expected
    assert family.generator.generate_ids(items) == expected


def test_a_missing_chat_template_is_reported_before_any_weight_is_read(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(checkpoint("llava"), tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").unlink()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"no weights")

    with pytest.raises(
        RequestError, match=r"no chat template; name a file .* IDEFIQ_CHAT_TEMPLATE"
    ):
        load(tmp_path / "model")


def test_a_model_that_only_takes_turns_is_not_served_in_the_plain_style(
    checkpoint: Callable[[str], Path],
) -> None:
    with pytest.raises(RequestError, match="only takes turns: unset IDEFIQ_PROMPT_STYLE"):
        load(checkpoint("llava"), prompt_style="plain")


def test_whatever_a_library_raises_while_loading_is_one_clear_error(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """Weights of another shape are a RuntimeError of torch or the library."""
    shutil.copytree(checkpoint("internvl"), tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    weights = safetensors.torch.load_file(file)
    name = next(name for name in weights if "mlp" in name)
    safetensors.torch.save_file({**weights, name: torch.zeros(3, 3)}, file, {"format": "pt"})

    with pytest.raises(RequestError, match="model 'm' cannot be loaded: RuntimeError"):
        load(tmp_path / "model")


@pytest.mark.parametrize(
    ("file", "written"),
    [
        ("model.safetensors", b"\x10\0\0\0\0\0\0\0{"),
        ("config.json", b'{"model_type": "llava", "text_config": 3}'),
    ],
)
def test_a_broken_file_of_a_checkpoint_is_one_clear_error(
    file: str, written: bytes, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(checkpoint("llava"), tmp_path / "model")
    (tmp_path / "model" / file).write_bytes(written)

    with pytest.raises(RequestError, match="model 'm' "):
        load(tmp_path / "model")


def test_a_configuration_of_a_far_larger_model_takes_no_memory_for_it(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """The library's own defaults describe LLaVA with seven thousand million weights."""
    shutil.copytree(checkpoint("llava"), tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llava"}')

    with pytest.raises(
        RequestError, match=r"config\.json in .* describes 7,\d{3},\d{3},\d{3} weights, but the"
    ):
        load(tmp_path / "model")


@pytest.mark.parametrize("name", ["qwen2.5-vl", "internvl", "llava-onevision"])
def test_the_library_is_as_it_was_after_a_processor_was_loaded_without_its_videos(
    name: str, checkpoint: Callable[[str], Path]
) -> None:
    load(checkpoint(name))

    with pytest.raises(ImportError, match=r"[Tt]orchvision"):
        transformers.AutoProcessor.from_pretrained(checkpoint(name))


def test_how_many_tokens_an_item_may_ask_for_follows_the_context_of_its_model(
    checkpoint: Callable[[str], Path],
) -> None:
    family = load(checkpoint("idefics2"))
    bounded = load(checkpoint("idefics2"), new_tokens_limit=100, max_new_tokens=500)

    assert family.loaded.model.config.get_text_config().max_position_embeddings == 2048
    assert (family.card.limits.max_new_tokens, family.card.defaults["max_new_tokens"]) == (1024, 64)
    assert (bounded.card.limits.max_new_tokens, bounded.card.defaults["max_new_tokens"]) == (
        100,
        100,
    )
    [answer] = family.generate(
        [family.prepare({"kind": "caption", "options": {"max_new_tokens": 500}}, [PICTURES[0]])]
    )
    assert 0 < answer.completion_tokens <= 500


def test_the_bytes_of_a_model_are_counted_from_its_configuration(
    wide: Callable[[str], Path],
) -> None:
    family = load(wide("idefics2"), quantize="nf4", dtype="bfloat16")
    counted = {part.name: part for part in sizes.parts(family.loaded.model.config)}

    for name, module in family.loaded.model.model.named_children():
        quantised = [m.weight for m in module.modules() if type(m).__name__ == "Linear4bit"]
        assert (quantised == []) == counted[name].in_vision
        taken = sum(weight.nbytes for weight in module.parameters())
        constants = counted[name].size_bytes("nf4") - (
            counted[name].linear * (2 if counted[name].in_vision else 0.5) + counted[name].other * 2
        )
        assert taken + constants == pytest.approx(counted[name].size_bytes("nf4"))


def test_idefics2_in_four_bits_takes_the_memory_that_the_page_of_models_gives() -> None:
    parts = sizes.parts(sizes.idefics2_8b())

    assert sum(part.size_bytes("nf4") for part in parts) == pytest.approx(6.45e9, rel=0.01)
    assert sum(part.linear + part.other for part in parts) == pytest.approx(8.40e9, rel=0.01)
