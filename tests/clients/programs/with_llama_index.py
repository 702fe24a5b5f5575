"""LlamaIndex: a structured prediction by a function and by a response format."""

from common import BASE, KEY, MODEL, Scene, expect
from llama_index.core.prompts import PromptTemplate
from llama_index.llms.openai_like import OpenAILike

for way in ("is_function_calling_model", "should_use_structured_outputs"):
    model = OpenAILike(
        model=MODEL,
        api_base=BASE,
        api_key=KEY,
        is_chat_model=True,
        max_retries=0,
        context_window=2_000,
        **{way: True},
    )
    expect(model.structured_predict(Scene, PromptTemplate("Describe a red circle.")))
