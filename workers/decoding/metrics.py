"""Prometheus metrics of a model on its device."""

from prometheus_client import Counter, Gauge

ENGINE_INFO = Gauge(
    "idefiq_engine_info",
    "1; its labels say which model this engine serves, and how: slots (continuous batching) or"
    " generate",
    ["model", "path"],
)
SEQUENCES = Gauge("idefiq_engine_sequences", "Sequences in slots now")
SEQUENCE_SLOTS = Gauge(
    "idefiq_engine_sequence_slots", "Sequence slots of continuous batching; 0 with `generate`"
)
ITEMS_IN_FLIGHT = Gauge(
    "idefiq_engine_items_in_flight",
    "Items that the engine has claimed and not yet written, by what they wait for",
    ["step"],
)
IMAGES_ANSWERED = Counter("idefiq_engine_images", "Images of answered items")
PROMPT_TOKENS = Counter("idefiq_engine_prompt_tokens", "Tokens of the prompts of answered items")
GENERATED_TOKENS = Counter("idefiq_engine_generated_tokens", "Tokens of answers")
ANSWER_ISSUES = Counter(
    "idefiq_answer_issues",
    "Issues of answers by model and issue: cut, empty, prompt_echoed, refusal, repetition,"
    " wrong_language",
    ["model", "issue"],
)
ANSWERS_WITH_ISSUES = Counter(
    "idefiq_answers_with_issues", "Answers with at least one issue, by model", ["model"]
)
BUSY_SECONDS = Counter(
    "idefiq_engine_busy_seconds", "Time in which the device worked; its rate is the share in use"
)
OUT_OF_MEMORY = Counter(
    "idefiq_engine_out_of_memory", "Times the device ran out of memory and a batch was made smaller"
)
CACHE_LOOKUPS = Counter(
    "idefiq_cache_lookups",
    "Lookups by cache (answers, image_features, prefixes) and result (hit, miss)",
    ["cache", "result"],
)
GPU_MEMORY_BYTES = Gauge(
    "idefiq_gpu_memory_bytes",
    "GPU memory by device and kind: tensors (allocated), reserved (by this process), used (by all),"
    " total",
    ["device", "kind"],
)


def count_lookup(cache: str, *, is_hit: bool, count: int = 1) -> None:
    """Count lookups in a cache."""
    CACHE_LOOKUPS.labels(cache, "hit" if is_hit else "miss").inc(count)
